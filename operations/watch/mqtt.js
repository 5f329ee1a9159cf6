// MQTT 3.1.1 over WebSocket, as much of it as a reader needs: CONNECT, SUBSCRIBE, incoming PUBLISH at QoS 0 and 1, PUBACK,
// PINGREQ. `Packets` cuts the byte stream (a frame of WebSocket is no packet); `Client` keeps one connection up.

const CONNACK = 2;
const PUBLISH = 3;
const SUBACK = 9;
const PACKET_BYTES_MAX = 256 * 1024;
const KEEPALIVE_SECONDS = 30;
const ANSWER_SECONDS_MAX = 10;
const RETRY_SECONDS_FIRST = 1;
const RETRY_SECONDS_MAX = 15;
const STEADY_SECONDS = 10;
const UTF8 = new TextEncoder();
const TEXT = new TextDecoder();

const CONNECT_ANSWERS = {
  1: "the broker does not speak MQTT 3.1.1",
  2: "the broker refuses this client id",
  3: "the broker is not available",
  4: "the broker says that user name or password is wrong",
  5: "the broker does not let this user in; user name or password may be wrong",
};
const WRONG_CREDENTIALS = [4, 5];

export class ProtocolError extends Error {}

// Whole packets out of pieces. A packet over the limit is passed over, not kept.
export class Packets {
  constructor(packetBytesMax = PACKET_BYTES_MAX) {
    this.packetBytesMax = packetBytesMax;
    this.pending = new Uint8Array(0);
    this.toSkip = 0;
    this.skipped = 0;
  }

  take(piece) {
    let bytes = piece;
    if (this.toSkip) {
      const skip = Math.min(this.toSkip, bytes.length);
      this.toSkip -= skip;
      bytes = bytes.subarray(skip);
    }
    if (this.pending.length) {
      const joined = new Uint8Array(this.pending.length + bytes.length);
      joined.set(this.pending);
      joined.set(bytes, this.pending.length);
      bytes = joined;
    }
    const packets = [];
    for (;;) {
      const head = fixedHeader(bytes);
      if (head === null) break;
      const end = head.size + head.length;
      if (head.length > this.packetBytesMax) {
        this.skipped += 1;
        this.toSkip = Math.max(0, end - bytes.length);
        bytes = bytes.subarray(Math.min(end, bytes.length));
        continue;
      }
      if (bytes.length < end) break;
      packets.push({ type: bytes[0] >> 4, flags: bytes[0] & 15, body: bytes.subarray(head.size, end) });
      bytes = bytes.subarray(end);
    }
    this.pending = bytes.slice();
    return packets;
  }
}

function fixedHeader(bytes) {
  let length = 0;
  for (let index = 1; index <= 4; index += 1) {
    if (index >= bytes.length) return null;
    length += (bytes[index] & 127) * 128 ** (index - 1);
    if (bytes[index] < 128) return { length, size: index + 1 };
  }
  throw new ProtocolError("a packet's length has more than four bytes");
}

export function publication({ flags, body }) {
  const qos = (flags >> 1) & 3;
  const topicEnd = body.length < 2 ? Infinity : 2 + ((body[0] << 8) | body[1]);
  const start = topicEnd + (qos ? 2 : 0);
  if (qos > 1 || start > body.length) throw new ProtocolError("a PUBLISH that cannot be read");
  return {
    topic: TEXT.decode(body.subarray(2, topicEnd)),
    payload: body.subarray(start),
    id: qos ? (body[topicEnd] << 8) | body[topicEnd + 1] : null,
    isRetained: Boolean(flags & 1),
  };
}

function packet(first, ...parts) {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const head = [first];
  for (let rest = length; ; ) {
    head.push(rest > 127 ? (rest & 127) | 128 : rest);
    rest >>= 7;
    if (rest === 0) break;
  }
  return new Uint8Array([...head, ...parts.flatMap((part) => [...part])]);
}

function prefixed(text) {
  const bytes = UTF8.encode(text);
  return [bytes.length >> 8, bytes.length & 255, ...bytes];
}

export function connectPacket({ clientId, username, password }) {
  const hasPassword = username !== null && password !== null;
  const flags = 0x02 | (username === null ? 0 : 0x80) | (hasPassword ? 0x40 : 0); // clean session: nothing may pile up
  const fields = [...prefixed("MQTT"), 4, flags, KEEPALIVE_SECONDS >> 8, KEEPALIVE_SECONDS & 255, ...prefixed(clientId)];
  return packet(0x10, fields, username === null ? [] : prefixed(username), hasPassword ? prefixed(password) : []);
}

export const subscribePacket = (id, filters) =>
  packet(0x82, [id >> 8, id & 255], ...filters.map((filter) => [...prefixed(filter), 1]));

const PINGREQ = new Uint8Array([0xc0, 0]);

export function clientId(random = crypto.getRandomValues(new Uint8Array(6))) {
  return `fedkd-page-${[...random].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

// Tries again for ever, with full jitter, until it is stopped or the broker says that the credentials are wrong.
export class Client {
  // `on` takes: message(publication), state({name, text, seconds}), broken(text) for a packet that could not be used.
  constructor({ url, username, password, filters, on, random = Math.random }) {
    Object.assign(this, { url, username, password, filters, on, random });
    this.failures = 0;
    this.socket = null;
    this.timers = new Map();
    this.isStopped = false;
  }

  start() {
    this.on.state({ name: "connecting", text: `connecting to ${this.url}` });
    this.packets = new Packets();
    try {
      this.socket = new WebSocket(this.url, "mqtt");
    } catch (error) {
      this.stop();
      this.on.state({ name: "refused", text: `${this.url} is no address of a broker: ${error.message}` });
      return;
    }
    const { socket } = this;
    socket.binaryType = "arraybuffer";
    const whileCurrent = (act) => (event) => this.socket === socket && act(event);
    socket.onopen = whileCurrent(() => socket.send(connectPacket({ clientId: clientId(), username: this.username, password: this.password })));
    socket.onmessage = whileCurrent((event) => this.receive(event.data));
    socket.onclose = whileCurrent((event) => this.retry(event.reason || "the broker closed the connection, or is not there"));
    this.after("answer", ANSWER_SECONDS_MAX, () => this.retry(`no answer within ${ANSWER_SECONDS_MAX} s`));
  }

  stop() {
    this.isStopped = true;
    this.drop();
  }

  drop() {
    for (const timer of this.timers.values()) clearTimeout(timer);
    this.timers.clear();
    const { socket } = this;
    this.socket = null;
    if (socket) socket.close();
  }

  retry(reason) {
    if (this.isStopped) return;
    this.drop();
    const most = Math.min(RETRY_SECONDS_MAX, RETRY_SECONDS_FIRST * 2 ** this.failures);
    this.failures += 1;
    const seconds = Math.max(0.1, this.random() * most);
    this.on.state({ name: "waiting", text: reason, seconds });
    this.after("retry", seconds, () => this.start());
  }

  after(name, seconds, act) {
    clearTimeout(this.timers.get(name));
    this.timers.set(name, setTimeout(act, 1000 * seconds));
  }

  receive(data) {
    try {
      if (!(data instanceof ArrayBuffer)) throw new ProtocolError("text where MQTT should be");
      const before = this.packets.skipped;
      for (const received of this.packets.take(new Uint8Array(data))) this.handle(received);
      for (let lost = before; lost < this.packets.skipped; lost += 1) this.on.broken(`a packet over ${PACKET_BYTES_MAX} bytes`);
    } catch (error) {
      this.on.broken(error.message);
      this.retry(`what came is not MQTT: ${error.message}`);
      return;
    }
    if (this.socket !== null) this.after("silence", 1.5 * KEEPALIVE_SECONDS, () => this.retry("the broker went silent"));
  }

  handle(received) {
    if (received.type === CONNACK) this.greeted(received.body[1]);
    else if (received.type === SUBACK) this.subscribed([...received.body.subarray(2)]);
    else if (received.type === PUBLISH) {
      const message = publication(received);
      this.on.message(message);
      if (message.id !== null && this.socket !== null) this.socket.send(packet(0x40, [message.id >> 8, message.id & 255]));
    }
  }

  greeted(code) {
    if (code === 0) {
      this.socket.send(subscribePacket(1, this.filters));
      this.ping();
    } else if (WRONG_CREDENTIALS.includes(code)) {
      this.stop();
      this.on.state({ name: "refused", text: CONNECT_ANSWERS[code] });
    } else this.retry(CONNECT_ANSWERS[code] ?? `the broker refused, with code ${code}`);
  }

  subscribed(codes) {
    clearTimeout(this.timers.get("answer"));
    const refused = this.filters.filter((_, index) => codes[index] === 0x80);
    this.on.state({ name: "connected", text: this.url, refused });
    this.after("steady", STEADY_SECONDS, () => { this.failures = 0; });
  }

  ping() {
    this.after("ping", KEEPALIVE_SECONDS / 2, () => {
      this.socket.send(PINGREQ);
      this.ping();
    });
  }
}
