/*
 * Verifying JWTs that clients sign (RFC 7515, 7518, 8037), with nothing but
 * what Node has.
 */

import crypto from 'node:crypto';

const pss = { padding: crypto.constants.RSA_PKCS1_PSS_PADDING, saltLength: crypto.constants.RSA_PSS_SALTLEN_DIGEST };
const raw = { dsaEncoding: 'ieee-p1363' };

const algorithms = {
  RS256: ['rsa', 'sha256', {}],
  RS384: ['rsa', 'sha384', {}],
  RS512: ['rsa', 'sha512', {}],
  PS256: ['rsa', 'sha256', pss],
  ES256: ['ec', 'sha256', raw],
  ES384: ['ec', 'sha384', raw],
  EdDSA: ['ed25519', null, {}],
};

const decode = (part) => {
  if (!/^[\w-]+$/.test(part)) throw new Error('not base64url');
  return Buffer.from(part, 'base64url');
};

/* verifyJwt returns { header, claims } or throws what is wrong with the JWT. */
export function verifyJwt(jwt, publicKey) {
  const parts = String(jwt).split('.');
  if (parts.length !== 3) throw new Error('a JWT has three parts');
  const header = JSON.parse(decode(parts[0]).toString());
  const claims = JSON.parse(decode(parts[1]).toString());
  const known = Object.hasOwn(algorithms, header.alg) && algorithms[header.alg];
  if (!known) throw new Error(`algorithm ${header.alg}`);

  const [type, digest, how] = known;
  const key = crypto.createPublicKey(publicKey);
  if (key.asymmetricKeyType !== type && !(how === pss && key.asymmetricKeyType === 'rsa-pss')) throw new Error('a key of another type');
  if (!crypto.verify(digest, Buffer.from(`${parts[0]}.${parts[1]}`), { key, ...how }, decode(parts[2]))) {
    throw new Error('the signature is wrong');
  }
  return { header, claims };
}

/*
 * checkClaims throws unless the claims are for here and for now, and never
 * seen before: jtis is a Set of those that were.
 */
export function checkClaims(claims, { issuer, subject, audience }, jtis) {
  const now = Date.now() / 1000;
  if (issuer !== undefined && claims.iss !== issuer) throw new Error(`issuer ${claims.iss}`);
  if (subject !== undefined && claims.sub !== subject) throw new Error(`subject ${claims.sub}`);
  if (audience !== undefined && claims.aud !== audience) throw new Error(`audience ${claims.aud}`);
  if (!(claims.iat <= now) || !(claims.exp > now) || !(claims.exp - claims.iat <= 3600)) throw new Error('not of this time');
  if (!claims.jti || jtis.has(claims.jti)) throw new Error('no jti, or one again');
  jtis.add(claims.jti);
}
