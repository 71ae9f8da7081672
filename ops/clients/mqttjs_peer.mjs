// One MQTT.js client as the scenarios need it, and waiting: every wait has a condition and a deadline.
// The package is found through NODE_PATH, because it is installed outside of this folder.

import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'

export const mqtt = createRequire(import.meta.url)('mqtt')

const DEADLINE_MS = 15_000
const EXPIRY_S = 120

export class Failure extends Error {}

export function check(condition, message) {
  if (!condition) throw new Failure(message)
}

export function equal(got, wanted, what) {
  const [left, right] = [JSON.stringify(got), JSON.stringify(wanted)]
  check(left === right, `${what}: got ${left?.slice(0, 120)}, not ${right?.slice(0, 120)}`)
}

/** Waits for a promise, at most until the deadline. */
export function within(promise, what, deadlineMs = DEADLINE_MS) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Failure(`waited ${deadlineMs / 1000} s for ${what()}`)), deadlineMs)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/** What a client over TLS trusts and shows: names of files in a folder, without their endings. */
export function tlsOptions(folder, authority, certificate) {
  const read = (name) => readFileSync(join(folder, name))
  const own = certificate && { cert: read(`${certificate}.pem`), key: read(`${certificate}.key`) }
  return { ca: [read(`${authority}.pem`)], ...own }
}

/** Where the server is, and names that no other run or scenario uses. */
export class Talk {
  constructor({ url, v5, tls }) {
    Object.assign(this, { url, v5, tls, scenario: '', closers: [], waiters: new Set() })
    this.token = randomBytes(4).toString('hex')
  }

  name(suffix) {
    return `${this.scenario}-${this.token}-${suffix}`
  }

  /** To be called after every change that a predicate may look at. */
  changed() {
    for (const waiter of this.waiters) waiter()
  }

  /** Resolves once the predicate holds. */
  async until(predicate, what, deadlineMs) {
    let waiter
    const holds = new Promise((resolve) => {
      waiter = () => predicate() && resolve()
      this.waiters.add(waiter)
      waiter()
    })
    await within(holds, what, deadlineMs).finally(() => this.waiters.delete(waiter))
  }

  async close() {
    while (this.closers.length > 0) await this.closers.pop()()
  }
}

export class Peer {
  /** Connects; closed when the scenario ends. */
  static async connect(talk, name, { durable = false, keepalive = 30, will, properties = {}, clientId } = {}) {
    const peer = new Peer()
    Object.assign(peer, { talk, durable, messages: [], connected: false, reason: undefined })
    peer.clientId = clientId ?? talk.name(name)
    peer.options = {
      ...talk.tls,
      clientId: peer.clientId,
      protocolVersion: talk.v5 ? 5 : 4,
      clean: !durable,
      keepalive,
      will,
      reconnectPeriod: 0,
      resubscribe: false,
      connectTimeout: DEADLINE_MS,
      properties: talk.v5 ? { ...(durable && { sessionExpiryInterval: EXPIRY_S }), ...properties } : undefined,
    }
    peer.client = mqtt.connect(talk.url, peer.options)
    peer.listen()
    talk.closers.push(() => peer.close())
    await peer.connected_()
    return peer
  }

  listen() {
    const told = (change) => (...values) => {
      change(...values)
      this.talk.changed()
    }
    this.client.on('connect', told((connack) => Object.assign(this, { connack, connected: true })))
    this.client.on('close', told(() => { this.connected = false }))
    this.client.on('disconnect', told((packet) => { this.reason = packet.reasonCode }))
    this.client.on('error', told((error) => { this.error = error }))
    this.client.on('message', told((topic, payload, packet) => {
      this.messages.push({ topic, text: payload.toString(), payload, qos: packet.qos, retain: packet.retain, packet })
    }))
  }

  async connected_() {
    await this.talk.until(() => this.connected || this.error, () => `the CONNACK of ${this.clientId}`)
    if (!this.connected) throw new Failure(`${this.clientId} cannot connect: ${this.error}`)
  }

  /** Ends the connection without DISCONNECT. */
  async cut() {
    this.client.stream.destroy()
    await this.closed()
  }

  async closed(deadlineMs) {
    await this.talk.until(() => !this.connected, () => `the end of ${this.clientId}'s connection`, deadlineMs)
  }

  /** Connects again with the state that the client has. Returns Session Present. */
  async resume() {
    this.client.reconnect()
    await this.connected_()
    return this.connack.sessionPresent
  }

  async disconnect() {
    await within(this.client.endAsync(), () => `the end of ${this.clientId}`)
  }

  /** Leaves nothing behind, no session either. */
  async close() {
    if (this.connected) await this.disconnect()
    else await this.client.endAsync(true)
    if (!this.durable) return
    const properties = this.talk.v5 ? { sessionExpiryInterval: 0 } : undefined
    const options = { ...this.options, clean: true, will: undefined, properties }
    const last = await within(mqtt.connectAsync(this.talk.url, options), () => 'the last connection')
    await last.endAsync()
  }

  /** Returns the granted QoS. */
  async subscribe(filter, qos, options = {}) {
    const granted = await within(this.client.subscribeAsync(filter, { qos, ...options }), () => `the SUBACK of ${filter}`)
    return granted.map((one) => one.qos)
  }

  async unsubscribe(...filters) {
    return within(this.client.unsubscribeAsync(filters), () => `the UNSUBACK of ${filters}`)
  }

  /** Publishes, and waits for the acknowledgement that the QoS has. */
  async publish(topic, payload, qos = 0, options = {}) {
    await within(this.client.publishAsync(topic, payload, { qos, ...options }), () => `the acknowledgement of ${topic}`)
  }

  async waitMessages(count) {
    const what = () => `${count} messages at ${this.clientId}; ${this.messages.length} came`
    await this.talk.until(() => this.messages.length >= count, what)
  }

  /** Waits for the messages, fails when there are more by then, and forgets them. */
  async take(count) {
    await this.waitMessages(count)
    const messages = this.messages.splice(0)
    equal(messages.length, count, `messages at ${this.clientId}`)
    return messages
  }

  /** Resolves when whatever the server had sent us before is here: a message to ourselves has come after it. */
  async fence() {
    const topic = `${this.talk.name('fence')}/${this.clientId}`
    await this.subscribe(topic, 1)
    await this.publish(topic, 'fence', 1)
    await this.talk.until(() => this.messages.some((message) => message.topic === topic), () => 'our own message')
    await this.unsubscribe(topic)
    this.messages = this.messages.filter((message) => message.topic !== topic)
  }

  async nothingCame() {
    await this.fence()
    equal(this.messages.map(({ topic, text }) => [topic, text.slice(0, 20)]), [], `messages at ${this.clientId}`)
  }
}
