// LZ4 frames to bytes. Total: any bytes give the content or a DecodeError, and nothing larger than the caller's limit is
// allocated. https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md, with the content size stored, as the contract asks.

export class DecodeError extends Error {}

const MAGIC = 0x184d2204;
const BLOCK_BYTES_MAX = { 4: 1 << 16, 5: 1 << 18, 6: 1 << 20, 7: 1 << 22 };
const PRIMES = [0x9e3779b1, 0x85ebca77, 0xc2b2ae3d, 0x27d4eb2f, 0x165667b1];

const rotated = (word, by) => (word << by) | (word >>> (32 - by));

// XXH32, the checksum of LZ4 frames.
export function xxh32(bytes, seed = 0) {
  const [p1, p2, p3, p4, p5] = PRIMES;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  let hash = (seed + p5) | 0;
  if (bytes.length >= 16) {
    const lanes = [(seed + p1 + p2) | 0, (seed + p2) | 0, seed | 0, (seed - p1) | 0];
    for (; at + 16 <= bytes.length; at += 16) {
      for (let lane = 0; lane < 4; lane += 1) {
        const word = Math.imul(view.getUint32(at + 4 * lane, true), p2);
        lanes[lane] = Math.imul(rotated((lanes[lane] + word) | 0, 13), p1);
      }
    }
    hash = (rotated(lanes[0], 1) + rotated(lanes[1], 7) + rotated(lanes[2], 12) + rotated(lanes[3], 18)) | 0;
  }
  hash = (hash + bytes.length) | 0;
  for (; at + 4 <= bytes.length; at += 4) {
    hash = Math.imul(rotated((hash + Math.imul(view.getUint32(at, true), p3)) | 0, 17), p4);
  }
  for (; at < bytes.length; at += 1) {
    hash = Math.imul(rotated((hash + Math.imul(bytes[at], p5)) | 0, 11), p1);
  }
  hash = Math.imul(hash ^ (hash >>> 15), p2);
  hash = Math.imul(hash ^ (hash >>> 13), p3);
  return (hash ^ (hash >>> 16)) >>> 0;
}

// The content of the one frame in `payload`, a Uint8Array.
export function unframed(payload, { payloadBytesMax, contentBytesMax }) {
  if (payload.length > payloadBytesMax) throw new DecodeError(`payload of ${payload.length} bytes is over ${payloadBytesMax}`);
  const frame = header(payload);
  if (frame.size > contentBytesMax) throw new DecodeError(`frame states ${frame.size} bytes, over ${contentBytesMax}`);
  const content = new Uint8Array(frame.size);
  let at = frame.end;
  let written = 0;
  for (;;) {
    const word = uint32(payload, at);
    at += 4;
    if (word === 0) break;
    const length = word & 0x7fffffff;
    if (length > frame.blockBytesMax) throw new DecodeError("frame: a block is over the size that its header states");
    if (length > payload.length - at) throw new DecodeError("frame: cut short");
    const block = payload.subarray(at, at + length);
    at += length;
    if (frame.hasBlockChecksums) {
      if (uint32(payload, at) !== xxh32(block)) throw new DecodeError("frame: a block's checksum is wrong");
      at += 4;
    }
    const from = frame.isLinked ? 0 : written;
    const room = Math.min(content.length, written + frame.blockBytesMax);
    written = word >>> 31 ? stored(block, content, written) : unpacked(block, content, { written, from, room });
  }
  if (written !== frame.size) throw new DecodeError(`frame: ${written} bytes instead of the ${frame.size} that it states`);
  if (frame.hasContentChecksum) {
    if (uint32(payload, at) !== xxh32(content)) throw new DecodeError("frame: the content's checksum is wrong");
    at += 4;
  }
  if (at !== payload.length) throw new DecodeError("frame: something follows it");
  return content;
}

function uint32(bytes, at) {
  if (at + 4 > bytes.length) throw new DecodeError("frame: cut short");
  return (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;
}

function header(payload) {
  if (payload.length < 15 || uint32(payload, 0) !== MAGIC) throw new DecodeError("frame: not an LZ4 frame");
  const flags = payload[4];
  const blockBytesMax = BLOCK_BYTES_MAX[(payload[5] >> 4) & 7];
  const isKnown = flags >> 6 === 1 && !(flags & 0x02) && !(payload[5] & 0x8f) && blockBytesMax !== undefined;
  if (!isKnown) throw new DecodeError("frame: its header is not one that is known");
  if (!(flags & 0x08)) throw new DecodeError("frame: its content size is not stored");
  if (flags & 0x01) throw new DecodeError("frame: it needs a dictionary");
  const end = 15;
  if (payload[end - 1] !== ((xxh32(payload.subarray(4, end - 1)) >>> 8) & 0xff)) throw new DecodeError("frame: its header's checksum is wrong");
  return {
    end,
    blockBytesMax,
    size: uint32(payload, 6) + uint32(payload, 10) * 2 ** 32,
    isLinked: !(flags & 0x20),
    hasBlockChecksums: Boolean(flags & 0x10),
    hasContentChecksum: Boolean(flags & 0x04),
  };
}

function stored(block, content, written) {
  if (block.length > content.length - written) throw new DecodeError("frame: more content than it states");
  content.set(block, written);
  return written + block.length;
}

// One LZ4 block: literals and matches in turn, the last sequence without a match.
function unpacked(block, content, { written, from, room }) {
  let at = 0;
  let out = written;
  const extended = (length) => {
    if (length < 15) return length;
    let total = length;
    for (let byte = 255; byte === 255; total += byte) {
      if (at >= block.length) throw new DecodeError("block: cut short");
      byte = block[at++];
    }
    return total;
  };
  for (;;) {
    if (at >= block.length) throw new DecodeError("block: cut short");
    const token = block[at++];
    const literals = extended(token >> 4);
    if (literals > block.length - at || literals > room - out) throw new DecodeError("block: literals run past the end");
    content.set(block.subarray(at, at + literals), out);
    at += literals;
    out += literals;
    if (at === block.length) return out;
    if (at + 2 > block.length) throw new DecodeError("block: cut short");
    const offset = block[at] | (block[at + 1] << 8);
    at += 2;
    const length = extended(token & 15) + 4;
    if (offset === 0 || offset > out - from) throw new DecodeError("block: a match from before the beginning");
    if (length > room - out) throw new DecodeError("block: a match runs past the end");
    for (let end = out + length; out < end; out += 1) content[out] = content[out - offset]; // may overlap itself
  }
}
