// Content that the test harness knows too: all of it follows from a seed.
//
// The bytes of file FILE of seed SEED are the keystream of ChaCha20 (64-bit counter from 0, nonce 0) under the key
// SHA-256(SEED || FILE), both as 8 bytes big-endian. A file alone is file 0. The Rust side has the same in
// tests/src/content.rs.

import { createCipheriv, createHash } from 'node:crypto'
import * as dagCbor from '@ipld/dag-cbor'
import * as dagJson from '@ipld/dag-json'
import * as dagPb from '@ipld/dag-pb'
import { blake2b } from '@noble/hashes/blake2.js'
import { blake3 } from '@noble/hashes/blake3.js'
import { importer } from 'ipfs-unixfs-importer'
import { fixedSize } from 'ipfs-unixfs-importer/chunker'
import { balanced, trickle } from 'ipfs-unixfs-importer/layout'
import { CID } from 'multiformats/cid'
import * as json from 'multiformats/codecs/json'
import * as raw from 'multiformats/codecs/raw'
import { from as hasherFrom } from 'multiformats/hashes/hasher'
import { identity } from 'multiformats/hashes/identity'
import { sha256, sha512 } from 'multiformats/hashes/sha2'

export const codecs = [dagPb, raw, dagCbor, dagJson, json]
export const hashers = [
  sha256,
  sha512,
  identity,
  hasherFrom({ name: 'blake2b-256', code: 0xb220, encode: bytes => blake2b(bytes, { dkLen: 32 }) }),
  hasherFrom({ name: 'blake3', code: 0x1e, encode: bytes => blake3(bytes) })
]

// What is made at a time, so that a file of any size takes little memory.
const PIECE = 1024 * 1024

/** The bytes of a file, piece by piece. */
export function * seeded (seed, file, size) {
  const name = Buffer.alloc(16)
  name.writeBigUInt64BE(BigInt(seed), 0)
  name.writeBigUInt64BE(BigInt(file), 8)
  const key = createHash('sha256').update(name).digest()
  const cipher = createCipheriv('chacha20', key, Buffer.alloc(16))
  for (let left = size; left > 0; left -= PIECE) {
    yield cipher.update(Buffer.alloc(Math.min(left, PIECE)))
  }
}

/** All bytes of a block, however the store hands them out. */
export async function whole (pieces) {
  const parts = []
  for await (const part of pieces) {
    parts.push(part)
  }
  return parts.length === 1 ? parts[0] : Buffer.concat(parts)
}

export function codecOf (code) {
  const codec = codecs.find(codec => codec.code === code)
  if (codec == null) {
    throw new Error(`codec 0x${code.toString(16)} is not known here`)
  }
  return codec
}

/** The CIDs that a block links to, in their order, repeated ones too. */
export function linksOf (cid, bytes) {
  if (cid.code === dagPb.code) {
    return dagPb.decode(bytes).Links.map(link => link.Hash)
  }
  const links = []
  const look = value => {
    const link = CID.asCID(value)
    if (link != null) {
      links.push(link)
    } else if (value != null && typeof value === 'object' && !ArrayBuffer.isView(value)) {
      Object.values(value).forEach(look)
    }
  }
  look(codecOf(cid.code).decode(bytes))
  return links
}

// Snake case, as in the commands, to what the importer takes.
function importOptions (options) {
  const made = { profile: options.profile ?? 'unixfs-v1-2025' }
  const old = made.profile === 'unixfs-v0-2015'
  const maxChildrenPerNode = options.max_links ?? (old ? 174 : 1024)
  made.layout = options.trickle ? trickle({ maxChildrenPerNode }) : balanced({ maxChildrenPerNode })
  made.chunker = fixedSize({ chunkSize: options.chunk_bytes ?? (old ? 256 * 1024 : 1024 * 1024) })
  if (options.cid_version != null) made.cidVersion = options.cid_version
  if (options.raw_leaves != null) made.rawLeaves = options.raw_leaves
  if (options.shard_above_bytes != null) made.shardSplitThresholdBytes = options.shard_above_bytes
  return made
}

async function rootOf (entries) {
  let last
  for await (const entry of entries) {
    last = entry
  }
  return last.cid
}

/** One file. */
export function addBytes (store, { seed, size, options = {} }) {
  return rootOf(importer([{ content: seeded(seed, 0, size) }], store, importOptions(options)))
}

/** The name of a file in a directory: `file-` and six digits, so that their order is that of the numbers. */
export function fileName (file) {
  return `file-${String(file).padStart(6, '0')}`
}

/** A directory of `files` files of `size` bytes each; a HAMT directory when its block would be too large. */
export function addDirectory (store, { seed, files, size, options = {} }) {
  const candidates = function * () {
    for (let file = 0; file < files; file++) {
      yield { path: fileName(file), content: seeded(seed, file, size) }
    }
  }
  if (files === 0) {
    return rootOf(importer([{ path: 'empty' }], store, importOptions(options)))
  }
  return rootOf(importer(candidates(), store, { ...importOptions(options), wrapWithDirectory: true }))
}

/**
 * A tree of dag-cbor or dag-json nodes: each inner one links to `width` others, `depth` levels below the root. A node is
 * `{ at: [level, index in its level], data: 32 bytes, links: [...] }` with the first bytes of file `index` of seed
 * `seed + level` as its data. The leaves link to one raw block, all to the same: the last block of the count.
 */
export async function addGraph (store, { codec: name, seed, depth, width }) {
  const codec = { 'dag-cbor': dagCbor, 'dag-json': dagJson }[name]
  if (codec == null) {
    throw new Error(`codec must be dag-cbor or dag-json, not ${name}`)
  }
  const put = async (codec, bytes) => {
    const cid = CID.createV1(codec.code, await sha256.digest(bytes))
    await store.put(cid, bytes)
    return cid
  }
  const shared = await put(raw, await whole(seeded(seed, 0, 1000)))
  let below = []
  for (let level = depth; level >= 0; level--) {
    const nodes = []
    for (let index = 0; index < width ** level; index++) {
      const links = level === depth ? [shared] : below.slice(index * width, (index + 1) * width)
      const data = new Uint8Array(await whole(seeded(BigInt(seed) + BigInt(level), index, 32)))
      nodes.push(await put(codec, codec.encode({ at: [level, index], data, links })))
    }
    below = nodes
  }
  return below[0]
}

/** A block as given: base64, the code of its codec, the name of its hash. */
export async function putBlock (store, { codec, hash, data }) {
  const hasher = hashers.find(hasher => hasher.name === hash)
  if (hasher == null) {
    throw new Error(`hash must be one of ${hashers.map(hasher => hasher.name)}, not ${hash}`)
  }
  const bytes = new Uint8Array(Buffer.from(data, 'base64'))
  const cid = CID.createV1(codec, await hasher.digest(bytes))
  await store.put(cid, bytes)
  return cid
}

/** What a command asks to be made. */
export function make (store, request) {
  switch (request.make) {
    case 'bytes': return addBytes(store, request)
    case 'directory': return addDirectory(store, request)
    case 'graph': return addGraph(store, request)
    case 'block': return putBlock(store, request)
    default: throw new Error(`nothing to make is called ${request.make}`)
  }
}
