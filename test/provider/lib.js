/*
 * What the programs in this directory share: a loopback listener, reading
 * request bodies, JSON answers, and dying with whoever started them.
 */

import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';

/* The options every server here understands, for util.parseArgs. */
export const serverOptions = {
  port: { type: 'string', default: '0' },
  tls: { type: 'boolean', default: false },
  cert: { type: 'string' },
  key: { type: 'string' },
  'die-with-stdin': { type: 'boolean', default: false },
  'die-with-parent': { type: 'boolean', default: false },
};

/* usage ends the program with one line on stderr, as for a wrong option. */
export function usage(message) {
  process.stderr.write(`${message}\n`);
  process.exit(2);
}

/* number reads a numeric command-line option. */
export function number(name, text) {
  const value = Number(text);
  if (text === '' || !Number.isFinite(value) || value < 0) usage(`--${name} needs a number, not "${text}"`);
  return value;
}

/*
 * dieWithParent ends the process when its starter is gone. Standard input is
 * the sure way (the kernel closes the pipe even after kill -9); watching the
 * parent's id is for shell scripts that cannot easily keep a pipe open.
 */
export function dieWithParent(options) {
  if (options['die-with-stdin']) {
    process.stdin.on('end', () => process.exit(0));
    process.stdin.on('error', () => process.exit(0));
    process.stdin.resume();
  }
  if (options['die-with-parent']) {
    const parent = process.ppid;
    setInterval(() => { if (process.ppid !== parent) process.exit(0); }, 200).unref();
  }
}

/*
 * listen opens a server on a loopback port and resolves to it. All of node's
 * own timeouts are off: a test decides when a connection ends, and an idle
 * connection that the server closes by itself would race with its reuse.
 */
export function listen(handler, { port = 0, tls = false, cert, key } = {}) {
  if (tls && !(cert && key)) usage('--tls needs --cert FILE and --key FILE');
  const settings = {
    keepAliveTimeout: 0, headersTimeout: 0, requestTimeout: 0, noDelay: true,
  };
  const server = tls
    ? https.createServer({ ...settings, cert: fs.readFileSync(cert), key: fs.readFileSync(key) }, handler)
    : http.createServer(settings, handler);

  /* Clients that die, speak nonsense or distrust our certificate are none of our errors. */
  server.on('clientError', (error, socket) => socket.destroy());
  server.on('tlsClientError', () => {});

  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host: '127.0.0.1', port, backlog: 1024 }, () => resolve(server));
  });
}

/* readBody resolves to the whole body, or rejects when the client goes away. */
export function readBody(req) {
  return new Promise((resolve, reject) => {
    const parts = [];
    req.on('data', (part) => parts.push(part));
    req.on('end', () => resolve(parts.length === 1 ? parts[0] : Buffer.concat(parts)));
    req.on('error', reject);
    req.on('close', () => { if (!req.complete) reject(new Error('client has gone')); });
  });
}

export function sendJson(res, status, value) {
  const body = JSON.stringify(value);
  res.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) });
  res.end(body);
}

/*
 * control answers a request under /control/ from a table of functions, keyed
 * "METHOD name". A function gets the JSON body and the query, and returns what
 * to answer; what it throws is the caller's mistake.
 */
export async function control(table, req, res) {
  try {
    const url = new URL(req.url, 'http://control');
    const action = table[`${req.method} ${url.pathname.slice('/control/'.length)}`];
    const body = (await readBody(req)).toString();
    if (!action) {
      sendJson(res, 404, { error: `no ${req.method} ${url.pathname}`, known: Object.keys(table) });
      return;
    }
    sendJson(res, 200, await action(body ? JSON.parse(body) : {}, url.searchParams) ?? { ok: true });
  } catch (error) {
    if (!res.destroyed) sendJson(res, 400, { error: error.message });
  }
}

export const sleep = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

/* bump adds one to a counter in a plain object. */
export function bump(object, name) {
  object[name] = (object[name] ?? 0) + 1;
}
