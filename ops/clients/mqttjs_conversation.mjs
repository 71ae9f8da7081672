// The scripted conversation, held by MQTT.js over TCP or WebSocket, in both protocol versions.
// README.md of this folder says what each scenario means.

import { parseArgs } from 'node:util'

import { Failure, Peer, Talk, check, equal, mqtt, tlsOptions, within } from './mqttjs_peer.mjs'

const BURST = 1_000
const texts = (messages) => messages.map((message) => message.text)
const numbered = (count) => Array.from({ length: count }, (_, number) => String(number))
const sorted = (values) => [...values].sort()

/** Two connected clients, which most scenarios begin with. */
async function pair(talk, options = {}) {
  return [await Peer.connect(talk, 'subscriber', options), await Peer.connect(talk, 'publisher')]
}

async function qosEachWay(talk) {
  const [subscriber, publisher] = await pair(talk)
  for (const granted of [0, 1, 2]) {
    for (const sent of [0, 1, 2]) {
      const topic = `${talk.name('t')}/${granted}/${sent}`
      equal(await subscriber.subscribe(topic, granted), [granted], 'granted QoS')
      await publisher.publish(topic, 'hello', sent)
      const [message] = await subscriber.take(1)
      equal([message.topic, message.text], [topic, 'hello'], 'message')
      equal([message.qos, message.retain], [Math.min(granted, sent), false], 'QoS and RETAIN')
    }
  }
}

async function wildcards(talk) {
  const root = talk.name('t')
  const [subscriber, publisher] = await pair(talk)
  const cases = {
    [`${root}/+/c`]: [`${root}/b/c`],
    [`${root}/#`]: [root, `${root}/`, `${root}/b`, `${root}/b/c`],
    [`+/b/${root}`]: [`x/b/${root}`],
    [`${root}/+`]: [`${root}/b`, `${root}/`],
  }
  const topics = new Set([...Object.values(cases).flat(), `${root}x/b`])
  for (const [filter, matching] of Object.entries(cases)) {
    await subscriber.subscribe(filter, 1)
    for (const topic of topics) await publisher.publish(topic, 'x', 1)
    await subscriber.fence()
    const got = await subscriber.take(matching.length)
    equal(sorted(got.map(({ topic }) => topic)), sorted(matching), `topics that match ${filter}`)
    await subscriber.unsubscribe(filter)
  }
}

async function retained(talk) {
  const topic = `${talk.name('t')}/a`
  const [live, publisher] = await pair(talk)
  await live.subscribe(topic, 1)
  await publisher.publish(topic, 'first', 1, { retain: true })
  await publisher.publish(topic, 'second', 1, { retain: true })
  equal((await live.take(2)).map(({ retain }) => retain), [false, false], 'RETAIN of live messages')
  const late = await Peer.connect(talk, 'late')
  await late.subscribe(topic, 1)
  const [message] = await late.take(1)
  equal([message.text, message.retain], ['second', true], 'retained message')
  await publisher.publish(topic, '', 1, { retain: true })
  const later = await Peer.connect(talk, 'later')
  await later.subscribe(topic, 1)
  await later.nothingCame()
}

async function willOnCut(talk) {
  const topic = `${talk.name('t')}/will`
  const watcher = await Peer.connect(talk, 'watcher')
  await watcher.subscribe(topic, 2)
  const mortal = await Peer.connect(talk, 'mortal', { will: { topic, payload: Buffer.from('gone'), qos: 1 } })
  await mortal.cut()
  const [message] = await watcher.take(1)
  equal([message.text, message.qos], ['gone', 1], 'will')
}

async function noWillAfterDisconnect(talk) {
  const topic = `${talk.name('t')}/will`
  const watcher = await Peer.connect(talk, 'watcher')
  await watcher.subscribe(topic, 2)
  const mortal = await Peer.connect(talk, 'mortal', { will: { topic, payload: Buffer.from('gone'), qos: 1 } })
  await mortal.disconnect()
  await watcher.nothingCame()
}

async function resumeQueued(talk) {
  const root = talk.name('t')
  const [subscriber, publisher] = await pair(talk, { durable: true })
  await subscriber.subscribe(`${root}/+`, 2)
  await subscriber.cut()
  for (let number = 0; number < 100; number += 1) {
    const qos = (number % 2) + 1
    await publisher.publish(`${root}/${qos}`, String(number), qos)
  }
  check(await subscriber.resume(), 'Session Present is 0 after a cut')
  const messages = await subscriber.take(100)
  for (const qos of [1, 2]) {
    const wanted = numbered(100).filter((text) => (Number(text) % 2) + 1 === qos)
    equal(texts(messages.filter((message) => message.qos === qos)), wanted, `QoS ${qos} messages that waited`)
  }
  await subscriber.nothingCame()
}

// QoS 1 only: cut amid QoS 2 flows, MQTT.js 5.16 repeated and skipped messages with Mosquitto, where paho did neither.
async function resumeAmidDelivery(talk) {
  const topic = `${talk.name('t')}/1`
  const [subscriber, publisher] = await pair(talk, { durable: true })
  await subscriber.subscribe(topic, 1)
  const sent = numbered(300).map((text) => publisher.publish(topic, text, 1))
  await subscriber.waitMessages(50)
  await subscriber.cut()
  await Promise.all(sent)
  check(await subscriber.resume(), 'Session Present is 0 after a cut')
  const unique = () => [...new Set(texts(subscriber.messages))]
  await talk.until(() => unique().length >= 300, () => `300 messages; ${unique().length} came`)
  equal(unique(), numbered(300), 'QoS 1 messages across the cut, repetitions left out')
}

async function takeOver(talk) {
  const topic = `${talk.name('t')}/x`
  const older = await Peer.connect(talk, 'twin')
  await older.subscribe(topic, 1)
  const newer = await Peer.connect(talk, 'twin')
  await older.closed()
  await newer.subscribe(topic, 1)
  await newer.publish(topic, 'mine', 1)
  equal(texts(await newer.take(1)), ['mine'], 'message')
  equal(older.messages, [], 'messages at the older connection')
}

async function sharedSubscription(talk) {
  const root = talk.name('t')
  const members = [await Peer.connect(talk, 'member0'), await Peer.connect(talk, 'member1')]
  for (const member of members) await member.subscribe(`$share/${talk.name('g')}/${root}/+`, 1)
  const publisher = await Peer.connect(talk, 'publisher')
  await Promise.all(numbered(200).map((text) => publisher.publish(`${root}/${text % 7}`, text, 1)))
  const all = () => members.flatMap((member) => texts(member.messages))
  await talk.until(() => all().length >= 200, () => `200 messages at the two members; ${all().length} came`)
  for (const member of members) await member.fence()
  equal(sorted(all()), sorted(numbered(200)), 'messages of the two members together')
  check(members.every((member) => member.messages.length > 0), 'one member got everything')
}

async function largePayload(talk) {
  const topic = `${talk.name('t')}/x`
  const payload = Buffer.alloc(200 * 1024, (number) => number % 251)
  const [subscriber, publisher] = await pair(talk)
  await subscriber.subscribe(topic, 2)
  for (const qos of [0, 1, 2]) {
    await publisher.publish(topic, payload, qos)
    const [message] = await subscriber.take(1)
    check(payload.equals(message.payload), `a payload of ${payload.length} bytes was changed`)
  }
}

async function hundredClients(talk) {
  const root = talk.name('t')
  const peers = await Promise.all(numbered(100).map((number) => Peer.connect(talk, `c${number}`)))
  await Promise.all(peers.map((peer, number) => peer.subscribe([`${root}/${number}`, `${root}/all`], 1)))
  await Promise.all(peers.map((peer, number) => peer.publish(`${root}/${(number + 1) % 100}`, String(number), 1)))
  await peers[0].publish(`${root}/all`, 'all', 1)
  for (const [number, peer] of peers.entries()) {
    equal(sorted(texts(await peer.take(2))), sorted([String((number + 99) % 100), 'all']), 'messages')
  }
}

async function keepAlive(talk) {
  const patient = await Peer.connect(talk, 'patient', { keepalive: 1 })
  let pings = 0
  patient.client.on('packetreceive', (packet) => {
    pings += packet.cmd === 'pingresp' ? 1 : 0
    talk.changed()
  })
  await talk.until(() => pings >= 3, () => `3 ping responses; ${pings} came`)
  check(patient.connected, 'a client that pings was disconnected')
}

async function emptyPayload(talk) {
  const topic = `${talk.name('t')}/x`
  const peer = await Peer.connect(talk, 'peer')
  await peer.subscribe(topic, 2)
  for (const qos of [0, 1, 2]) await peer.publish(topic, '', qos)
  equal(texts(await peer.take(3)), ['', '', ''], 'payloads')
}

async function utf8Topics(talk) {
  const peer = await Peer.connect(talk, 'jürgen-工-🚢')
  for (const text of ['straße/größe', '路/岸', '🚢/⚓', 'space in/topic', 'ﷺ/\u0301']) {
    const topic = `${talk.name('t')}/${text}`
    await peer.subscribe(topic, 1)
    await peer.publish(topic, text, 1)
    const [message] = await peer.take(1)
    equal([message.topic, message.text], [topic, text], 'message')
  }
}

async function burst(talk, qos) {
  const topic = `${talk.name('t')}/x`
  const [subscriber, publisher] = await pair(talk)
  await subscriber.subscribe(topic, qos)
  await Promise.all(numbered(BURST).map((text) => publisher.publish(topic, text, qos)))
  equal(texts(await subscriber.take(BURST)), numbered(BURST), 'messages in order')
}

const burstQos0 = (talk) => burst(talk, 0)
const burstQos1 = (talk) => burst(talk, 1)
const burstQos2 = (talk) => burst(talk, 2)

async function takeOverReason(talk) {
  const older = await Peer.connect(talk, 'twin')
  await Peer.connect(talk, 'twin')
  await older.closed()
  equal(older.reason, 0x8e, 'reason that the older connection is told')
}

async function userProperties(talk) {
  const topic = `${talk.name('t')}/x`
  const peer = await Peer.connect(talk, 'peer')
  await peer.subscribe(topic, 1)
  const properties = { userProperties: { key: ['one', 'two'], ü: '🚢' }, contentType: 'text/plain' }
  await peer.publish(topic, 'x', 1, { properties })
  const [{ packet }] = await peer.take(1)
  equal({ ...packet.properties.userProperties }, properties.userProperties, 'user properties')
  equal(packet.properties.contentType, 'text/plain', 'content type')
}

async function requestResponse(talk) {
  const root = talk.name('t')
  const [asker, server] = await pair(talk)
  await asker.subscribe(`${root}/answers`, 1)
  await server.subscribe(`${root}/questions`, 1)
  const correlationData = Buffer.from([0, 255, 42])
  await asker.publish(`${root}/questions`, '?', 1, { properties: { responseTopic: `${root}/answers`, correlationData } })
  const [{ packet }] = await server.take(1)
  const asked = packet.properties
  await server.publish(asked.responseTopic, '!', 1, { properties: { correlationData: asked.correlationData } })
  const [answer] = await asker.take(1)
  check(correlationData.equals(answer.packet.properties.correlationData), 'the correlation data was changed')
}

async function messageExpiry(talk) {
  const topic = `${talk.name('t')}/x`
  const [subscriber, publisher] = await pair(talk)
  await subscriber.subscribe(topic, 1)
  await publisher.publish(topic, 'x', 1, { properties: { messageExpiryInterval: 100 } })
  const [{ packet }] = await subscriber.take(1)
  const rest = packet.properties.messageExpiryInterval
  check(rest >= 95 && rest <= 100, `an interval of 100 s arrives as ${rest} s`)
}

async function topicAlias(talk) {
  const root = talk.name('t')
  const subscriber = await Peer.connect(talk, 'subscriber', { properties: { topicAliasMaximum: 5 } })
  const publisher = await Peer.connect(talk, 'publisher')
  check(publisher.connack.properties?.topicAliasMaximum > 0, 'the server allows no topic aliases')
  await subscriber.subscribe(`${root}/#`, 1)
  for (const [topic, text] of [[`${root}/a`, '1'], ['', '2'], [`${root}/b`, '3'], ['', '4']]) {
    await publisher.publish(topic, text, 1, { properties: { topicAlias: 1 } })
  }
  const got = (await subscriber.take(4)).map(({ topic, text }) => [topic, text])
  equal(got, [[`${root}/a`, '1'], [`${root}/a`, '2'], [`${root}/b`, '3'], [`${root}/b`, '4']], 'topics and payloads')
}

async function subscriptionIdentifiers(talk) {
  const topic = `${talk.name('t')}/a`
  const peer = await Peer.connect(talk, 'peer')
  await peer.subscribe(topic, 1, { properties: { subscriptionIdentifier: 268_435_455 } })
  await peer.publish(topic, 'x', 1)
  const [{ packet }] = await peer.take(1)
  equal([packet.properties.subscriptionIdentifier].flat(), [268_435_455], 'subscription identifiers')
}

async function reasonCodes(talk) {
  const topic = `${talk.name('t')}/a`
  const peer = await Peer.connect(talk, 'peer')
  await peer.subscribe(topic, 1)
  const unsuback = await peer.unsubscribe(topic, `${topic}/never`)
  equal(unsuback.granted ?? unsuback.reasonCodes, [0, 0x11], 'UNSUBACK')
}

async function assignedClientId(talk) {
  const peers = [await Peer.connect(talk, '', { clientId: '' }), await Peer.connect(talk, '', { clientId: '' })]
  const [first, second] = peers.map((peer) => peer.connack.properties?.assignedClientIdentifier)
  check(first && second && first !== second, `assigned client identifiers ${first} and ${second}`)
}

async function noLocal(talk) {
  const topic = `${talk.name('t')}/x`
  const [peer, other] = await pair(talk)
  await peer.subscribe(topic, 1, { nl: true })
  await peer.publish(topic, 'own', 1)
  await other.publish(topic, 'other', 1)
  equal(texts(await peer.take(1)), ['other'], 'messages')
  await peer.nothingCame()
}

const BOTH = {
  qosEachWay, wildcards, retained, willOnCut, noWillAfterDisconnect, resumeQueued, resumeAmidDelivery, takeOver,
  sharedSubscription, largePayload, hundredClients, keepAlive, emptyPayload, utf8Topics, burstQos0, burstQos1, burstQos2,
}
const ONLY_5 = {
  takeOverReason, userProperties, requestResponse, messageExpiry, topicAlias, subscriptionIdentifiers, reasonCodes,
  assignedClientId, noLocal,
}

// The server asks for a certificate. It has two of its own: as `localhost` a good one, and as 127.0.0.1 one that has expired.
// The first two clients leave by themselves; Node hangs up without an alert. The others are told by one.
// Each line: name, where it connects, which authority it trusts, which certificate it shows, what it says.
const REFUSALS = [
  ['serverOfAnotherAuthority', 'localhost', 'stranger', 'client', 'unable to verify'],
  ['serverExpired', '127.0.0.1', 'authority', 'client', 'certificate has expired'],
  ['clientWithoutCertificate', 'localhost', 'authority', undefined, 'alert certificate required'],
  ['clientOfAnotherAuthority', 'localhost', 'authority', 'strange-client', 'alert unknown ca'],
  ['clientExpired', 'localhost', 'authority', 'expired-client', 'alert certificate expired'],
  ['clientRevoked', 'localhost', 'authority', 'revoked-client', 'alert certificate revoked'],
]

/** The scenarios of those that must not get in, and at last of one that must. */
function refusals({ url, folder }) {
  const scenario = ([name, host, authority, certificate, says]) => async (talk) => {
    const options = { ...tlsOptions(folder, authority, certificate), reconnectPeriod: 0, clientId: talk.name('refused') }
    const client = mqtt.connect(url(host), options)
    talk.closers.push(() => client.endAsync(true))
    const said = await within(
      new Promise((resolve, reject) => {
        client.on('error', resolve)
        client.on('connect', () => reject(new Failure(`${name}: the client was let in`)))
      }),
      () => 'the client to see that it is refused',
    )
    const words = String(said).toLowerCase()
    check(words.includes(says), `the client does not say “${says}”, but: ${words}`)
  }
  return Object.fromEntries([...REFUSALS.map((refusal) => [refusal[0], scenario(refusal)]), ['welcome', qosEachWay]])
}

/** Runs the scenarios, prints a line for each; true when one has failed. */
async function converse(scenarios, talk, { only, known }) {
  let failed = false
  for (const [key, scenario] of Object.entries(scenarios)) {
    const name = key.replace(/([A-Z]|(?<=[a-z])\d)/g, (part) => `-${part.toLowerCase()}`)
    if (!name.includes(only)) continue
    talk.scenario = name
    const version = talk.v5 ? '5' : '3.1.1'
    const start = performance.now()
    try {
      await scenario(talk)
      console.log(`ok ${name} ${version} (${((performance.now() - start) / 1000).toFixed(2)} s)`)
    } catch (error) {
      const isKnown = known.split(',').includes(name)
      failed ||= !isKnown
      const why = error instanceof Failure ? error.message : error.stack
      console.log(`${isKnown ? 'known' : 'FAIL'} ${name} ${version}: ${why}`)
    } finally {
      await talk.close().catch((error) => console.error(`  (closing: ${error})`))
    }
  }
  return failed
}

const { values } = parseArgs({
  options: {
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string', default: '1883' },
    'ws-port': { type: 'string', default: '8083' },
    transport: { type: 'string', default: 'tcp' },
    tls: { type: 'string' },
    certificate: { type: 'string' },
    refusals: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    known: { type: 'string', default: '' },
  },
})
const folder = values.tls
const secure = folder ? 's' : ''
const url = (host) =>
  values.transport === 'ws' ? `ws${secure}://${host}:${values['ws-port']}/mqtt` : `mqtt${secure}://${host}:${values.port}`
const tls = folder && tlsOptions(folder, 'authority', values.certificate)
let failed = false
for (const v5 of values.refusals ? [true] : [false, true]) {
  const conversation = v5 ? { ...BOTH, ...ONLY_5 } : BOTH
  const scenarios = values.refusals ? refusals({ url, folder }) : conversation
  failed = (await converse(scenarios, new Talk({ url: url(values.host), v5, tls }), values)) || failed
}
process.exit(failed ? 1 : 0)
