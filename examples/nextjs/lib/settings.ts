import 'server-only';

/* The environment, read when it is needed: `next build` knows none of it. */
function setting(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set; see .env.example`);
  return value;
}

export const settings = {
  get appUrl() { return setting('APP_URL'); },
  get sessionPassword() { return setting('SESSION_PASSWORD'); },
  get conduitUrl() { return setting('CONDUIT_URL'); },
  get conduitApiKey() { return setting('CONDUIT_API_KEY'); },
  get connectors() { return setting('CONNECTORS').split(','); },
  get issuer() { return setting('OIDC_ISSUER'); },
  get clientId() { return setting('OIDC_CLIENT_ID'); },
  get clientSecret() { return setting('OIDC_CLIENT_SECRET'); },
};

/* A redirect of the browser to a page of ours, whatever host the request came by. */
export function redirectTo(path: string): Response {
  return new Response(null, { status: 303, headers: { location: new URL(path, settings.appUrl).href, 'cache-control': 'no-store' } });
}
