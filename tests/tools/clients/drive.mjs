// Drives the npm clients of IPFS Cluster's REST API, which are used as they come: a JSON line in is a call, a JSON line out
// says what it gave. See tests/src/clients.rs, which talks to it.
//
//   {"seq":1,"cmd":"open","library":"nftstorage","url":"http://127.0.0.1:9094/","headers":{}}    -> {"seq":1,"ok":{"client":0}}
//   {"seq":2,"cmd":"call","client":0,"method":"pins.ls","args":[…]}                              -> {"seq":2,"ok":{"value":…}}
//                                                                                                or {"seq":2,"ok":{"thrown":{…}}}
//
// What JSON lacks: {"$file":"base64","name":"…"} a File, {"$blob":"base64"} a Blob, {"$buffer":"base64"} a Buffer,
// {"$date":"…"} a Date.

import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { Cluster } from '@nftstorage/ipfs-cluster'

const ipfsClusterApi = createRequire(import.meta.url)('ipfs-cluster-api')

const opened = []

const libraries = {
  nftstorage: ({ url, headers }) => new Cluster(url, { headers }),
  'ipfs-cluster-api': ({ url, headers }) => {
    const { hostname, port, protocol } = new URL(url)
    return ipfsClusterApi(hostname, port, { protocol: protocol.replace(':', ''), headers })
  }
}

function alive (value) {
  if (Array.isArray(value)) return value.map(alive)
  if (value === null || typeof value !== 'object') return value
  if ('$file' in value) return new File([Buffer.from(value.$file, 'base64')], value.name)
  if ('$blob' in value) return new Blob([Buffer.from(value.$blob, 'base64')])
  if ('$buffer' in value) return Buffer.from(value.$buffer, 'base64')
  if ('$date' in value) return new Date(value.$date)
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, alive(inner)]))
}

async function call ({ client, method, args }) {
  const path = method.split('.')
  const name = path.pop()
  const owner = path.reduce((object, part) => object[part], opened[client])
  try {
    const value = await owner[name](...args.map(alive))
    return { value: value === undefined ? null : value }
  } catch (error) {
    const thrown = { name: error.name, message: String(error.message) }
    if (error.response) {
      thrown.status = error.response.status
      thrown.body = await error.response.text()
    }
    return { thrown }
  }
}

const commands = {
  open: async (request) => {
    opened.push(libraries[request.library](request))
    return { client: opened.length - 1 }
  },
  call
}

function say (answer) {
  process.stdout.write(JSON.stringify(answer) + '\n')
}

async function answer (line) {
  const request = JSON.parse(line)
  let timer
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error('its time is over')), request.timeout_millis)
  })
  try {
    say({ seq: request.seq, ok: await Promise.race([commands[request.cmd](request), late]) })
  } catch (error) {
    say({ seq: request.seq, error: `${error.stack || error}` })
  } finally {
    clearTimeout(timer)
  }
}

// An old library may throw where nobody waits for it; that is told, and the next call goes on.
process.on('uncaughtException', (error) => console.error(error))

const lines = createInterface({ input: process.stdin })
lines.on('line', answer)
// Nobody is left who asks.
lines.on('close', () => process.exit(0))
say({ seq: 0, ok: { node: process.version } })
