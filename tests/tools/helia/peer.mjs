// A Helia node as a test peer: no bootstrap, no DHT, no gateways, only 127.0.0.1. Steered by JSON lines: one request a line
// on stdin, `{"seq": N, "cmd": ..., ...}`, one answer a line on stdout, `{"seq": N, "ok": {...}}` or `{"seq": N, "error":
// "..."}`. Requests run side by side; answers come in the order in which they are ready. The end of stdin stops it.
//
// The one argument is JSON: `listen` (of `tcp`, `quic`), `folder` (blocks, pins and key are kept there; else in memory),
// `bitswap` (options of @helia/bitswap).

import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { quic } from '@chainsafe/libp2p-quic'
import { withBitswap } from '@helia/bitswap'
import { withLibp2pLight } from '@helia/libp2p'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { MemoryBlockstore } from 'blockstore-core'
import { FsBlockstore } from 'blockstore-fs'
import { MemoryDatastore } from 'datastore-core'
import { FsDatastore } from 'datastore-fs'
import { createHeliaLight } from 'helia'
import { CID } from 'multiformats/cid'
import { codecs, hashers, make, whole } from './content.mjs'
import { readFiles, reason, walk } from './walk.mjs'

const LISTEN = { tcp: '/ip4/127.0.0.1/tcp/0', quic: '/ip4/127.0.0.1/udp/0/quic-v1' }
const BITSWAP = '/ipfs/bitswap/1.2.0'

const setup = JSON.parse(process.argv[2] ?? '{}')
const blockstore = setup.folder == null ? new MemoryBlockstore() : new FsBlockstore(`${setup.folder}/blocks`)
const datastore = setup.folder == null ? new MemoryDatastore() : new FsDatastore(`${setup.folder}/data`)
await blockstore.open?.()
await datastore.open?.()
// The order of the layers is that of Helia's own createHelia, without HTTP.
const helia = withBitswap(withLibp2pLight(createHeliaLight({ blockstore, datastore, codecs, hashers }), {
  addresses: { listen: (setup.listen ?? ['tcp', 'quic']).map(kind => LISTEN[kind]) },
  // By itself QUIC gives a silent peer up after 10 s; the shorter time of the two ends counts.
  transports: [tcp(), quic({ maxIdleTimeout: 60_000 })],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping() },
  // All peers of a test are at one address; the default lets five connections a second in.
  connectionManager: { inboundConnectionThreshold: 10_000, maxIncomingPendingConnections: 1_000 },
  // It hangs up on a peer that takes too long to answer a ping: one that is frozen by a test, or that is busy hashing.
  connectionMonitor: { enabled: false }
}), setup.bitswap ?? {})
await helia.start()

const commands = {
  id: () => ({
    peer_id: helia.libp2p.peerId.toString(),
    addresses: helia.libp2p.getMultiaddrs().map(String)
  }),

  // Answers when identify is through, so that Bitswap knows of the peer.
  async connect ({ addr }, signal) {
    const connection = await helia.libp2p.dial(multiaddr(addr), { signal })
    return describe(connection, await identified(connection.remotePeer, signal))
  },

  async peers () {
    return Promise.all(helia.libp2p.getConnections().map(async connection => {
      const peer = await helia.libp2p.peerStore.get(connection.remotePeer).catch(() => undefined)
      return describe(connection, peer)
    }))
  },

  async disconnect ({ peer_id: peer }) {
    const connections = helia.libp2p.getConnections().filter(({ remotePeer }) => remotePeer.toString() === peer)
    await Promise.all(connections.map(connection => connection.close()))
    return { closed: connections.length }
  },

  async add (request, signal) {
    const root = await make(signalled(helia.blockstore, signal), request)
    const { blocks, bytes } = await walk(helia.blockstore, root, { signal })
    return { cid: root.toString(), blocks, bytes }
  },

  // A block that it has; the network is not asked.
  async block ({ cid }, signal) {
    const key = CID.parse(cid)
    if (!await helia.blockstore.has(key, { signal })) {
      return { data: null }
    }
    return { data: Buffer.from(await whole(helia.blockstore.get(key, { offline: true, signal }))).toString('base64') }
  },

  async fetch ({ cid, at_once: atOnce }, signal) {
    const root = CID.parse(cid)
    const begun = performance.now()
    const count = await walk(helia.blockstore, root, { signal, atOnce })
    const millis = performance.now() - begun
    return { ...count, ...await readFiles(helia.blockstore, root, { signal }), millis }
  },

  async pin ({ cid }, signal) {
    let blocks = 0
    for await (const _ of helia.pins.add(CID.parse(cid), { signal })) {
      blocks += 1
    }
    return { blocks }
  },

  async unpin ({ cid }, signal) {
    let blocks = 0
    for await (const _ of helia.pins.rm(CID.parse(cid), { signal })) {
      blocks += 1
    }
    return { blocks }
  },

  async pinned ({ cid }, signal) {
    return { pinned: await helia.pins.isPinned(CID.parse(cid), { signal }) }
  },

  async gc (_, signal) {
    await helia.gc({ signal })
    return {}
  }
}

function describe (connection, peer) {
  const agent = peer?.metadata?.get('AgentVersion')
  return {
    peer_id: connection.remotePeer.toString(),
    address: connection.remoteAddr.toString(),
    outbound: connection.direction === 'outbound',
    agent: agent == null ? '' : Buffer.from(agent).toString(),
    protocols: peer?.protocols ?? []
  }
}

async function identified (peer, signal) {
  const known = async () => {
    const found = await helia.libp2p.peerStore.get(peer).catch(() => undefined)
    return found?.protocols.includes(BITSWAP) ? found : undefined
  }
  // Listened for before it is looked at, so that nothing is missed between.
  for (;;) {
    const update = once(helia.libp2p, 'peer:update', { signal })
    update.catch(() => {})
    const found = await known()
    if (found != null) {
      return found
    }
    await update.catch(error => {
      throw new Error(`${peer} is connected, but has not said that it speaks ${BITSWAP}`, { cause: error })
    })
  }
}


/** A store that the importer can be stopped by. */
function signalled (store, signal) {
  return { put: (cid, bytes, options) => store.put(cid, bytes, { ...options, signal }) }
}

function answer (line) {
  process.stdout.write(JSON.stringify(line) + '\n')
}

async function stop () {
  await helia.stop()
  await datastore.close?.()
  await blockstore.close?.()
}

async function serve (line) {
  const { seq, cmd, timeout_millis: timeout, ...rest } = JSON.parse(line)
  try {
    if (cmd === 'stop') {
      await stop()
      answer({ seq, ok: {} })
      process.stdout.end(() => process.exit(0))
      return
    }
    if (!Object.hasOwn(commands, cmd)) {
      throw new Error(`there is no command ${cmd}; there are ${Object.keys(commands)}, stop`)
    }
    const signal = timeout == null ? undefined : AbortSignal.timeout(timeout)
    answer({ seq, ok: await commands[cmd](rest, signal) })
  } catch (error) {
    answer({ seq, error: reason(error) })
  }
}

answer({ seq: 0, ok: commands.id() })
for await (const line of createInterface({ input: process.stdin })) {
  serve(line)
}
// Whoever started it is gone.
process.exit(0)
