// A real OpenID Connect server (oauth2-mock-server), and beside it what it lacks: a tokeninfo endpoint in Google's shape,
// introspection and token exchange that know its tokens, and a way for tests to ask for tokens that should be refused.
//
//     node provider.mjs FOLDER      FOLDER/node_modules holds oauth2-mock-server
//
// Prints one line of JSON with both addresses, and ends when its stdin does.
import { createServer } from 'node:http';
import { createHmac, generateKeyPairSync, randomUUID } from 'node:crypto';
import { pathToFileURL } from 'node:url';

const library = `${process.argv[2]}/node_modules/oauth2-mock-server/dist/index.mjs`;
const { OAuth2Server, OAuth2Issuer } = await import(pathToFileURL(library));

const server = new OAuth2Server();
await server.issuer.keys.generate('RS256');
await server.start(0, '127.0.0.1');
const issuer = `http://127.0.0.1:${server.address().port}`;
server.issuer.url = issuer;
let kid = server.issuer.keys.toJSON()[0].kid;
// Somebody else, who signs in this issuer's name.
const foreign = new OAuth2Issuer();
foreign.url = issuer;
await foreign.keys.generate('RS256');

const CLIENT = 'keyfold-test';
const now = () => Math.floor(Date.now() / 1000);
const tokens = new Map();
const refreshes = new Map();
const counts = { tokeninfo: 0, refresh: 0, reused: 0, exchange: 0 };
let down = false;
let slow = 0;
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

function token({ access_token = `ya29.${randomUUID()}`, expires_in = 3600, ...said }) {
  const exp = now() + expires_in;
  tokens.set(access_token, { azp: CLIENT, aud: CLIENT, scope: 'openid email', email: `${said.sub}@example.com`, email_verified: 'true', ...said, exp });
  return access_token;
}

function refresh(sub) {
  const refresh_token = `1//${randomUUID()}`;
  refreshes.set(refresh_token, { sub, used: false });
  return refresh_token;
}

// What the library hands out, made known to tokeninfo; refresh tokens are good once.
server.service.on('beforeResponse', (response, req) => {
  const { grant_type, refresh_token } = req.body;
  let sub = 'johndoe';
  if (grant_type === 'refresh_token') {
    const known = refreshes.get(refresh_token);
    if (!known || known.used) {
      counts.reused += 1;
      response.statusCode = 400;
      response.body = { error: 'invalid_grant' };
      return;
    }
    known.used = true;
    counts.refresh += 1;
    sub = known.sub;
    delete response.body.id_token;
  }
  response.body.access_token = token({ sub, expires_in: 3600 });
  response.body.refresh_token = refresh(sub);
});

async function idToken({ claims = {}, alg = 'RS256', key = 'own', without = [] }) {
  const transform = (_, payload) => {
    Object.assign(payload, { aud: CLIENT, email_verified: true }, claims);
    for (const name of without) delete payload[name];
  };
  if (alg === 'RS256') {
    return key === 'own' ? server.issuer.buildToken({ kid, scopesOrTransform: transform }) : foreign.buildToken({ scopesOrTransform: transform });
  }
  const payload = { iss: issuer, iat: now(), exp: now() + 3600 };
  transform({}, payload);
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg, typ: 'JWT', kid })}.${part(payload)}`;
  if (alg === 'none') return `${signed}.`;
  // The trick with HS256: the public key as the shared secret.
  const secret = JSON.stringify(server.issuer.keys.toJSON()[0]);
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}

const control = {
  token: (body) => ({ access_token: token(body) }),
  refresh: ({ sub }) => ({ refresh_token: refresh(sub) }),
  id_token: async (body) => ({ id_token: await idToken(body) }),
  revoke: ({ access_token }) => ({ revoked: tokens.delete(access_token) }),
  rotate: async () => ({ kid: (kid = (await server.issuer.keys.generate('RS256')).kid) }),
  down: (body) => ((down = body.down), {}),
  slow: (body) => ((slow = body.ms), {}),
  counts: () => counts,
  // The two kinds of file that application default credentials know.
  service_account: () => {
    const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048, privateKeyEncoding: { type: 'pkcs8', format: 'pem' }, publicKeyEncoding: { type: 'spki', format: 'pem' } });
    return { type: 'service_account', client_email: 'sre@project.iam.example', private_key_id: 'k1', private_key: privateKey, project_id: 'project', universe_domain: 'googleapis.com' };
  },
  authorized_user: () => ({ type: 'authorized_user', client_id: 'c', client_secret: 's', refresh_token: 'r', token_uri: `http://127.0.0.1:${beside.address().port}/user-token` }),
};

async function read(req) {
  let text = '';
  for await (const chunk of req) text += chunk;
  return text;
}

const beside = createServer(async (req, res) => {
  const url = new URL(req.url, 'http://localhost');
  const send = (status, body) => {
    res.writeHead(status, { 'content-type': 'application/json' });
    res.end(JSON.stringify(body));
  };
  const name = url.pathname.match(/^\/control\/(\w+)$/)?.[1];
  if (name) return send(200, await control[name](JSON.parse((await read(req)) || '{}')));
  if (down) return send(503, {});
  await wait(slow);
  if (url.pathname === '/tokeninfo') {
    counts.tokeninfo += 1;
    const said = tokens.get(url.searchParams.get('access_token'));
    if (!said || said.exp <= now()) return send(400, { error: 'invalid_token' });
    return send(200, { ...said, exp: `${said.exp}`, expires_in: `${said.exp - now()}` });
  }
  if (url.pathname === '/computeMetadata/v1/instance/service-accounts/default/token') {
    if (req.headers['metadata-flavor'] !== 'Google') return send(403, {});
    return send(200, { access_token: 'ya29.of-the-metadata-server', expires_in: 3600, token_type: 'Bearer' });
  }
  const form = new URLSearchParams(await read(req));
  if (url.pathname === '/user-token') {
    return send(200, { access_token: 'ya29.of-the-authorized-user', expires_in: 3600, token_type: 'Bearer' });
  }
  if (url.pathname === '/introspect') {
    const said = tokens.get(form.get('token'));
    if (!said || said.exp <= now()) return send(200, { active: false });
    const { azp, ...rest } = said;
    return send(200, { active: true, client_id: azp, token_type: 'Bearer', ...rest });
  }
  if (url.pathname === '/exchange') {
    const said = tokens.get(form.get('subject_token'));
    if (!said || form.get('grant_type') !== 'urn:ietf:params:oauth:grant-type:token-exchange') return send(400, { error: 'invalid_grant' });
    counts.exchange += 1;
    const access_token = token({ ...said, access_token: `narrow.${form.get('audience')}.${said.sub}.${randomUUID()}`, expires_in: 600 });
    return send(200, { access_token, issued_token_type: 'urn:ietf:params:oauth:token-type:access_token', token_type: 'Bearer', expires_in: 600 });
  }
  return send(404, {});
});
beside.listen(0, '127.0.0.1', () => {
  console.log(JSON.stringify({ issuer, beside: `http://127.0.0.1:${beside.address().port}` }));
});
process.stdin.on('end', () => process.exit(0)).resume();
