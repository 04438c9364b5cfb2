/*
 * The story of examples/nextjs in a browser: log in, connect, look, preview,
 * lose the permission, connect again, be somebody else, leave. Prints a line
 * of TAP for each thing that is as it should be, or is not.
 *
 *   node nextjs.js < facts    facts: {"app", "issuer", "files", "secrets": [], "images": directory or null,
 *                             "executable", "sandbox"}
 */

import assert from 'node:assert';
import fs from 'node:fs';

import { Browser } from './browser.js';

const facts = JSON.parse(fs.readFileSync(0, 'utf8'));
const browser = await Browser.launch(facts);

function ok(condition, name) {
  process.stdout.write(`${condition ? 'ok' : 'not ok'} - ${name}\n`);
}

function is(got, expected, name) {
  let same = true;
  try { assert.deepStrictEqual(got, expected); } catch { same = false; }
  ok(same, name);
  if (!same) process.stdout.write(`# got ${JSON.stringify(got)}\n# expected ${JSON.stringify(expected)}\n`);
}

const control = async (url, body) => (await fetch(url, body && { method: 'POST', body: JSON.stringify(body) })).json();
const text = (page, selector) => page.$$eval(selector, (all) => all.map((one) => one.innerText.trim()));
const shoot = (page, name, fullPage = false) => facts.images && page.screenshot({ path: `${facts.images}/nextjs-${name}.png`, fullPage });

/* Clicks and waits for the page that it leads to. */
async function click(page, selector) {
  const found = await page.waitForSelector(selector);
  await Promise.all([page.waitForNavigation({ waitUntil: 'networkidle0' }), found.evaluate((one) => one.click())]);
}

const button = (label, within = '') => `::-p-xpath(${within || '/'}/descendant::button[normalize-space()="${label}"])`;
const card = (name) => `//li[contains(@class, "card")][contains(., "${name}")]`;
const offer = (name) => `//li[contains(@class, "offer")][contains(., "${name}")]`;
const link = (label, within = '') => `::-p-xpath(${within || '/'}/descendant::a[normalize-space()="${label}"])`;

/* At the provider: its own pages for development, log-in and consent in turn, until they lead back. */
async function consent(page, account) {
  while (page.url().startsWith(facts.issuer)) {
    const login = await page.$('input[name=login]');
    if (login) {
      await login.type(account);
      await page.type('input[name=password]', 'any');
    }
    await click(page, 'button[type=submit]');
  }
}

async function logIn(page, account) {
  await page.goto(facts.app, { waitUntil: 'networkidle0' });
  await click(page, button('Log in'));
  await consent(page, account);
}

try {
  const page = await browser.open();

  await page.goto(facts.app, { waitUntil: 'networkidle0' });
  is(await text(page, 'h1'), ['Your accounts,\none workbench.'], 'a stranger is asked to log in');
  await logIn(page, 'alice');
  is(page.url(), `${facts.app}/`, 'logged in, without anything of it in the address');
  is(await text(page, '.who .name'), ['alice'], 'as whom the provider says');
  is(await text(page, '.lead'), ['Nothing is connected yet.'], 'nothing is connected');
  is((await text(page, '.offer h3')).sort(), ['Drive', 'Staff directory'], 'what can be connected');
  await shoot(page, 'connect');

  await click(page, button('Connect', offer('Drive')));
  ok(page.url().startsWith(facts.issuer), 'Connect leads to the provider');
  await consent(page, 'alice');
  const drive = page.url().match(/\/connections\/([0-9a-f-]{36})$/)?.[1];
  ok(drive, 'and back to the connection');
  is(await text(page, '.title p'), ['alice'], 'its account is known');
  is(await text(page, '.title .badge'), ['Connected'], 'it is well');
  is((await text(page, '.files a span:first-of-type')), ['Evening over the hills', 'Orders by month', 'Ground floor'],
    'the provider\'s API was called, with a token that nobody saw');

  await click(page, '.files a');
  const picture = await page.$eval('.preview img', (one) => ({ width: one.naturalWidth, complete: one.complete }));
  ok(picture.complete && picture.width > 0, 'a file is shown');
  await shoot(page, 'preview', true);

  await click(page, 'nav a');
  await click(page, button('Connect', offer('Staff directory')));
  await consent(page, 'alice');
  ok((await text(page, '.facts dd')).includes('alice@example.test'), 'a second service is connected, and called');
  const directory = page.url().match(/\/connections\/([0-9a-f-]{36})$/)?.[1];

  await click(page, 'nav a');
  is(await text(page, '.card .badge'), ['Connected', 'Connected'], 'both are listed');
  await shoot(page, 'connections');
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: 'dark' }]);
  await shoot(page, 'dark');
  await page.emulateMediaFeatures([]);

  ok((await control(`${facts.issuer}/control/revoke-grants`, { account: 'alice' })).revoked > 0, 'the provider forgets alice');
  await click(page, link('Open', card('Drive')));
  is(await text(page, '.title .badge'), ['Needs you'], 'the next call shows it');
  ok((await text(page, '.notice'))[0]?.includes('Drive has withdrawn its permission.'), 'and what is to be done');
  await shoot(page, 'needs-reauth');
  await click(page, 'nav a');
  is((await text(page, '.card .badge')).sort(), ['Connected', 'Needs you'], 'in the list, too');
  await shoot(page, 'list');
  await click(page, button('Reconnect', card('Drive')));
  await consent(page, 'alice');
  is(page.url(), `${facts.app}/connections/${drive}`, 'connected again, as the same connection');
  is(await text(page, '.title .badge'), ['Connected'], 'all is well');
  is((await text(page, '.files a')).length, 3, 'and the service answers');

  /* Somebody refuses. */
  await click(page, 'nav a');
  await click(page, button('Connect', offer('Staff directory')));
  await click(page, 'a[href$="/abort"]');
  ok((await text(page, '.notice'))[0]?.includes('not given your permission'), 'refusing changes nothing, and is said');
  ok(!/state|code|error/.test(page.url()), 'and leaves nothing in the address');

  /* Somebody else. */
  const other = await browser.open();
  await logIn(other, 'mallory');
  is(await text(other, '.lead'), ['Nothing is connected yet.'], 'another person sees none of it');
  is((await other.goto(`${facts.app}/connections/${drive}`)).status(), 404, 'nor by its address');
  is((await other.goto(`${facts.app}/connections/${drive}/files/plan.svg`)).status(), 404, 'nor its files');
  is((await other.goto(`${facts.app}/connections/00000000-0000-0000-0000-000000000000`)).status(), 404, 'as of one that never was');
  await other.goto(facts.app, { waitUntil: 'networkidle0' });
  await browser.look(other);

  /* What the browser holds. */
  await page.goto(`${facts.app}/connections/${drive}`, { waitUntil: 'networkidle0' });
  const { stored, cookies } = await browser.look(page);
  is([stored.local, stored.session, stored.databases, stored.caches, stored.cookie], [{}, {}, [], [], ''], 'no script could find anything stored');
  is(cookies.filter(({ domain }) => domain === 'localhost').map(({ name, httpOnly, sameSite }) => ({ name, httpOnly, sameSite })),
    [{ name: 'session', httpOnly: true, sameSite: 'Lax' }], 'one cookie, that pages cannot read');

  await click(page, 'nav a');
  await click(page, button('Disconnect', card('Staff directory')));
  is((await text(page, '.card h3 a')), ['Drive'], 'disconnected');
  is((await page.goto(`${facts.app}/connections/${directory}`)).status(), 404, 'and gone');
  await page.goto(facts.app, { waitUntil: 'networkidle0' });

  /* Leaving: the former cookie opens nothing, wherever it may have got to. */
  const former = cookies.find(({ name, domain }) => name === 'session' && domain === 'localhost').value;
  // Node.js 18 may take localhost for ::1 alone.
  const visit = () => fetch(facts.app.replace('localhost', '127.0.0.1'), { headers: { cookie: `session=${former}` }, redirect: 'manual' });
  is((await visit()).status, 200, 'the cookie is good');
  await click(page, button('Log out'));
  is(await text(page, 'h1'), ['Your accounts,\none workbench.'], 'logged out');
  const after = await visit();
  is([after.status, after.headers.get('location')], [307, '/logout?over'], 'the former cookie is not');
  ok(!(await after.text()).includes('Drive'), 'and shows nothing');

  /* The point of it all. */
  const issued = await control(`${facts.issuer}/control/secrets`);
  const links = await control(`${facts.files}/control/links`);
  const tokens = [...issued.AccessToken, ...issued.RefreshToken];
  ok(issued.AccessToken.length >= 4 && issued.RefreshToken.length >= 3 && issued.AuthorizationCode.length >= 5 && links.length >= 3,
    `${tokens.length} tokens and ${links.length} presigned URLs were handed out meanwhile`);
  const describe = (found) => found.map(({ what, url }) => `${what} of ${url.split('?')[0]}`);
  is(describe(await browser.find(tokens)), [], 'no token reached the browser');
  is(describe(await browser.find(facts.secrets)), [], 'nor any secret of ours');
  is(describe(await browser.find([...links, ...links.map((url) => url.match(/signature=([^&]+)/)[1])])), [], 'nor a presigned URL');
  /* A code must pass through the browser once (RFC 6749, 4.1.2): from the provider, to the callback. */
  const stray = (await browser.find(issued.AuthorizationCode)).filter(({ what, url }) => !(
    (url.startsWith(facts.issuer) && what === 'response header')
    || (new RegExp(`^${facts.app}/(connect|login)/callback\\?`).test(url) && what === 'request')));
  is(describe(stray), [], 'a code was seen on its way to the callback, and nowhere else');
  ok((await browser.find(issued.AuthorizationCode)).length > 0, 'where it was seen indeed');
  ok((await browser.find(['Evening over the hills'])).some(({ what }) => what === 'response body')
    && (await browser.find([former])).some(({ what }) => what === 'cookie')
    && (await browser.find(['<svg xmlns'])).some(({ url }) => url.endsWith('/plan.svg')), 'bodies, cookies and files were looked through');
  is(browser.seen.filter(({ what, url }) => what === 'console' && url.startsWith(facts.app)).map((one) => one.text)
    .filter((message) => !/status of (404|40[0-9])/.test(message)), [], 'the console has nothing to say');
  process.stdout.write('done\n');
} catch (error) {
  process.stdout.write(`not ok - the story came to its end\n${String(error.stack).replace(/^/gm, '# ')}\n`);
  const pages = await browser.chromium.pages().catch(() => []);
  for (const page of pages) {
    process.stdout.write(`# at ${page.url()}\n${(await text(page, 'body').catch(() => [])).join('\n').replace(/^/gm, '#   ')}\n`);
  }
} finally {
  await browser.close();
}
