// msgpack to values. Total: any bytes give a value or a DecodeError. Lengths are held against the bytes that are left
// before anything is made, and depth and number of values are bounded. Maps become `Map`, so that no key means anything.

import { DecodeError } from "./frame.js";

const DEPTH_MAX = 16;
const VALUES_MAX = 1 << 16;
const TEXT = new TextDecoder("utf-8", { fatal: true });

// The one value in `bytes`, a Uint8Array.
export function unpack(bytes) {
  const reader = new Reader(bytes);
  const value = reader.value(0);
  if (reader.left !== 0) throw new DecodeError("msgpack: something follows the value");
  return value;
}

class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.at = 0;
    this.values = 0;
  }

  get left() {
    return this.bytes.length - this.at;
  }

  value(depth) {
    if (depth > DEPTH_MAX) throw new DecodeError("msgpack: nested too deep");
    if (++this.values > VALUES_MAX) throw new DecodeError("msgpack: too many values");
    const head = this.number(1, "getUint8");
    if (head < 0x80) return head;
    if (head < 0x90) return this.map(head & 0x0f, depth);
    if (head < 0xa0) return this.array(head & 0x0f, depth);
    if (head < 0xc0) return this.text(head & 0x1f);
    if (head >= 0xe0) return head - 0x100;
    return this.marked(head, depth);
  }

  marked(head, depth) {
    switch (head) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return this.raw(this.number(1, "getUint8"));
      case 0xc5: return this.raw(this.number(2, "getUint16"));
      case 0xc6: return this.raw(this.number(4, "getUint32"));
      case 0xc7: return this.extension(this.number(1, "getUint8"));
      case 0xc8: return this.extension(this.number(2, "getUint16"));
      case 0xc9: return this.extension(this.number(4, "getUint32"));
      case 0xca: return new Float(this.number(4, "getFloat32"));
      case 0xcb: return new Float(this.number(8, "getFloat64"));
      case 0xcc: return this.number(1, "getUint8");
      case 0xcd: return this.number(2, "getUint16");
      case 0xce: return this.number(4, "getUint32");
      case 0xcf: return Number(this.number(8, "getBigUint64"));
      case 0xd0: return this.number(1, "getInt8");
      case 0xd1: return this.number(2, "getInt16");
      case 0xd2: return this.number(4, "getInt32");
      case 0xd3: return Number(this.number(8, "getBigInt64"));
      case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8: return this.extension(1 << (head - 0xd4));
      case 0xd9: return this.text(this.number(1, "getUint8"));
      case 0xda: return this.text(this.number(2, "getUint16"));
      case 0xdb: return this.text(this.number(4, "getUint32"));
      case 0xdc: return this.array(this.number(2, "getUint16"), depth);
      case 0xdd: return this.array(this.number(4, "getUint32"), depth);
      case 0xde: return this.map(this.number(2, "getUint16"), depth);
      case 0xdf: return this.map(this.number(4, "getUint32"), depth);
      default: throw new DecodeError("msgpack: a byte that begins no value");
    }
  }

  number(size, read) {
    if (size > this.left) throw new DecodeError("msgpack: cut short");
    const value = this.view[read](this.at);
    this.at += size;
    return value;
  }

  raw(length) {
    if (length > this.left) throw new DecodeError("msgpack: cut short");
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }

  text(length) {
    try {
      return TEXT.decode(this.raw(length));
    } catch (error) {
      throw error instanceof DecodeError ? error : new DecodeError("msgpack: text that is no UTF-8");
    }
  }

  // Nothing of the contract is one: skipped, and refused where a value is needed.
  extension(length) {
    this.raw(length + 1);
    return undefined;
  }

  array(length, depth) {
    if (length > this.left) throw new DecodeError("msgpack: cut short");
    const values = [];
    for (let index = 0; index < length; index += 1) values.push(this.value(depth + 1));
    return values;
  }

  map(length, depth) {
    if (2 * length > this.left) throw new DecodeError("msgpack: cut short");
    const values = new Map();
    for (let index = 0; index < length; index += 1) {
      const key = this.value(depth + 1);
      values.set(key, this.value(depth + 1));
    }
    values.repeats = values.size < length;
    return values;
  }
}

// Told apart from integers, because a count must not be one.
export class Float {
  constructor(value) {
    this.value = value;
  }
}
