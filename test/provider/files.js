/*
 * The API of a service that keeps people's files: what a connected account is
 * good for. It takes the access tokens of the OAuth server at --issuer, which
 * it asks about each, and hands files out by presigned URLs that need none.
 *
 *   GET /files              the files -> {"owner", "files": [{"name", "title", "size"}]}
 *   GET /files/<name>/link  -> {"url"}, good for a minute
 *   GET /download/<name>?…  the file
 *   GET /control/links      the presigned URLs handed out so far, for tests
 */

import crypto from 'node:crypto';
import { parseArgs } from 'node:util';

import {
  control, dieWithParent, listen, number, sendJson, serverOptions, usage,
} from './lib.js';

let options;
try {
  ({ values: options } = parseArgs({ options: { ...serverOptions, issuer: { type: 'string' } } }));
} catch (error) {
  usage(error.message);
}
if (!options.issuer) usage('--issuer is needed');
dieWithParent(options);

/* Drawn, not stored: a few pictures. */
const svg = (body) => Buffer.from(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 600" font-family="sans-serif">${body}</svg>\n`);

function hills() {
  const layers = ['#6d5a86', '#4f4672', '#352f59', '#211d3d'].map((colour, n) => {
    let path = 'M0 600';
    for (let x = 0; x <= 960; x += 12) {
      const y = 300 + n * 62 + 46 * Math.sin(x / (88 - n * 9) + n * 2) + 21 * Math.sin(x / 31 + n * 5);
      path += ` L${x} ${y.toFixed(1)}`;
    }
    return `<path d="${path} L960 600Z" fill="${colour}"/>`;
  });
  return svg(`<defs><linearGradient id="s" x2="0" y2="1"><stop stop-color="#2d3561"/><stop offset=".55" stop-color="#e8927c"/><stop offset="1" stop-color="#f7d8a4"/></linearGradient></defs>
<rect width="960" height="600" fill="url(#s)"/><circle cx="650" cy="250" r="58" fill="#fff3d6"/>${layers.join('')}`);
}

function chart() {
  const bars = [38, 46, 41, 57, 63, 60, 72, 78, 74, 88, 93, 97].map((value, n) => (
    `<rect x="${110 + n * 66}" y="${490 - value * 3.8}" width="40" height="${value * 3.8}" rx="6" fill="${n === 11 ? '#e0694f' : '#4453d8'}"/>`));
  const lines = [0, 1, 2, 3, 4].map((n) => `<path d="M90 ${490 - n * 92}H910" stroke="#dfe2ec"/>`);
  return svg(`<rect width="960" height="600" fill="#fff"/><text x="90" y="70" font-size="30" font-weight="700" fill="#1c1e26">Orders by month</text>${lines.join('')}${bars.join('')}`);
}

function plan() {
  const rooms = [[60, 60, 340, 250, 'Studio'], [400, 60, 500, 170, 'Library'], [400, 230, 230, 310, 'Hall'], [60, 310, 340, 230, 'Kitchen'], [630, 230, 270, 310, 'Garden room']]
    .map(([x, y, width, height, name]) => `<rect x="${x}" y="${y}" width="${width}" height="${height}" fill="#12406b" stroke="#cfe4f7" stroke-width="5"/><text x="${x + width / 2}" y="${y + height / 2 + 8}" font-size="24" fill="#cfe4f7" text-anchor="middle">${name}</text>`);
  return svg(`<rect width="960" height="600" fill="#0d3357"/>${rooms.join('')}`);
}

const files = new Map([
  ['evening.svg', { title: 'Evening over the hills', body: hills() }],
  ['orders.svg', { title: 'Orders by month', body: chart() }],
  ['plan.svg', { title: 'Ground floor', body: plan() }],
]);

const key = crypto.randomBytes(32);
const links = [];
const sign = (name, expires) => crypto.createHmac('sha256', key).update(`${name} ${expires}`).digest('base64url');

function link(origin, name) {
  const expires = Date.now() + 60_000;
  const url = `${origin}/download/${name}?expires=${expires}&signature=${sign(name, expires)}`;
  links.push(url);
  return url;
}

/* Whose a token is, as the OAuth server says; undefined if it knows it not. */
async function ownerOf(authorization) {
  if (!/^Bearer ./.test(authorization ?? '')) return undefined;
  const reply = await fetch(`${options.issuer}/me`, { headers: { authorization } });
  return reply.ok ? (await reply.json()).sub : undefined;
}

function sendFile(req, res, url) {
  const name = url.pathname.slice('/download/'.length);
  const file = files.get(name);
  const expires = url.searchParams.get('expires');
  if (req.headers.authorization || !file || url.searchParams.get('signature') !== sign(name, expires) || Number(expires) < Date.now()) {
    sendJson(res, 403, { error: 'forbidden' });
    return;
  }
  res.writeHead(200, { 'content-type': 'image/svg+xml', 'content-length': file.body.length });
  res.end(file.body);
}

async function answer(req, res) {
  const url = new URL(req.url, `http://${req.headers.host}`);
  if (req.method !== 'GET') {
    sendJson(res, 405, { error: 'method not allowed' });
    return;
  }
  if (url.pathname.startsWith('/download/')) {
    sendFile(req, res, url);
    return;
  }
  const owner = await ownerOf(req.headers.authorization);
  const wanted = url.pathname.match(/^\/files\/([^/]+)\/link$/)?.[1];
  if (!owner) {
    res.setHeader('www-authenticate', 'Bearer error="invalid_token"');
    sendJson(res, 401, { error: 'invalid_token' });
  } else if (url.pathname === '/files') {
    sendJson(res, 200, { owner, files: [...files].map(([name, { title, body }]) => ({ name, title, size: body.length })) });
  } else if (files.has(wanted)) {
    sendJson(res, 200, { url: link(url.origin, wanted) });
  } else {
    sendJson(res, 404, { error: 'not found' });
  }
}

const server = await listen((req, res) => {
  if (req.url.startsWith('/control/')) {
    control({ 'GET links': () => links }, req, res);
    return;
  }
  answer(req, res).catch(() => { if (!res.headersSent) sendJson(res, 502, { error: 'the OAuth server does not answer' }); });
}, { ...options, port: number('port', options.port) });

const { port } = server.address();
process.stdout.write(`${JSON.stringify({ url: `http://127.0.0.1:${port}`, port })}\n`);
