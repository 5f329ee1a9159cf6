// What the tests of the decoders have at hand in the page.
async (NO_TEXT) => {
  const names = ["frame", "msgpack", "messages", "mqtt", "charts", "metric"];
  const [frame, msgpack, messages, mqtt, charts, metric] = await Promise.all(names.map((name) => import(`/${name}.js`)));

  const bytes = (hex) => Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
  const hex = (array) => [...array].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const wide = { payloadBytesMax: 2 ** 20, contentBytesMax: 2 ** 26 };

  // As the vectors have values: bytes as {hex}, maps as objects.
  const plain = (value) => {
    if (value instanceof msgpack.Float) return value.value;
    if (value instanceof Uint8Array) return { hex: hex(value) };
    if (value instanceof Map) return Object.fromEntries([...value].map(([key, item]) => [key, plain(item)]));
    return Array.isArray(value) ? value.map(plain) : value;
  };

  const judged = (read) => {
    try {
      return read();
    } catch (error) {
      if (!(error instanceof frame.DecodeError)) return `escaped: ${error.name} ${error.message}`;
      return error.message.includes("UTF-8") ? NO_TEXT : "refused";
    }
  };

  const isNoPacket = (stream) => {
    try {
      new mqtt.Packets().take(stream).map(mqtt.publication);
      return false;
    } catch (error) {
      return error instanceof mqtt.ProtocolError;
    }
  };

  Object.assign(window, { frame, msgpack, messages, mqtt, charts, metric, bytes, hex, wide, plain, judged, isNoPacket });
}
