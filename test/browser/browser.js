/*
 * A browser that keeps all it sees: what the scripts of this directory drive.
 */

import puppeteer from 'puppeteer-core';

export class Browser {
  /* Everything that reached a browser: { what, where, text }, where the origin and kind of it. */
  seen = [];

  #pending = new Set();

  static async launch({ executable, sandbox }) {
    const self = new Browser();
    self.chromium = await puppeteer.launch({
      executablePath: executable,
      headless: true,
      args: [...(sandbox ? [] : ['--no-sandbox']), '--disable-dev-shm-usage', '--disable-gpu', '--disable-background-networking',
        '--disable-component-update', '--no-first-run', '--hide-scrollbars', '--no-proxy-server',
        /* Nothing is asked of anybody but this machine. */
        '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1'],
      defaultViewport: { width: 1120, height: 760 },
      timeout: 120_000,
      protocolTimeout: 120_000,
    });
    return self;
  }

  /* A page in a context of its own, as of another person. */
  async open() {
    const context = await this.chromium.createBrowserContext();
    const page = await context.newPage();
    page.setDefaultTimeout(60_000);
    page.on('request', (request) => {
      this.#see('request', request.url(), request.url());
      this.#see('request header', request.url(), JSON.stringify(request.headers()));
    });
    page.on('response', (response) => {
      this.#see('response header', response.url(), JSON.stringify(response.headers()));
    });
    page.on('requestfinished', (request) => {
      const response = request.response();
      if (!response || (response.status() >= 300 && response.status() < 400)) return;
      const body = response.buffer().then((bytes) => this.#see('response body', response.url(), bytes.toString('latin1')), () => {});
      this.#pending.add(body);
      body.finally(() => this.#pending.delete(body));
    });
    page.on('console', (message) => this.#see('console', page.url(), message.text()));
    page.on('pageerror', (error) => this.#see('console', page.url(), String(error)));
    page.on('framenavigated', (frame) => this.#see('address', frame.url(), frame.url()));
    return page;
  }

  #see(what, url, text) {
    this.seen.push({ what, url, text });
  }

  /* Notes all that a page has stored, of every kind, and returns its cookies. */
  async look(page) {
    const stored = await page.evaluate(async () => ({
      local: { ...localStorage },
      session: { ...sessionStorage },
      databases: (await indexedDB.databases()).map(({ name }) => name),
      caches: await (globalThis.caches?.keys() ?? []),
      cookie: document.cookie,
      page: document.documentElement.outerHTML,
    }));
    const cookies = await page.browserContext().cookies();
    this.#see('storage', page.url(), JSON.stringify(stored));
    this.#see('cookie', page.url(), JSON.stringify(cookies));
    return { stored, cookies };
  }

  /* Where any of these texts was seen, plain or in a form it is often given. */
  async find(texts) {
    await Promise.all(this.#pending);
    const found = [];
    for (const text of texts) {
      const forms = new Set([text, encodeURIComponent(text), Buffer.from(text).toString('base64').replace(/.{0,2}=*$/, ''),
        Buffer.from(text).toString('base64url'), Buffer.from(text).toString('hex')]);
      for (const one of this.seen) {
        if ([...forms].some((form) => one.text.includes(form))) found.push({ ...one, text });
      }
    }
    return found;
  }

  close() { return this.chromium.close(); }
}
