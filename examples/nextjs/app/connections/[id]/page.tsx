import Link from 'next/link';
import { notFound } from 'next/navigation';

import { Ago, Badge, Disconnect, Reconnect, Tile } from '@/components/parts';
import { conduit, ConduitError, leave, type Answer } from '@/lib/conduit';
import { requireUser } from '@/lib/session';

interface File {
  name: string;
  title: string;
  size: number;
}

type Look =
  | { kind: 'files'; files: File[] }
  | { kind: 'profile'; profile: Record<string, unknown> }
  | { kind: 'reconnect' }
  | { kind: 'problem'; text: string };

/* What is at the other end: a call of the provider's API, to which Conduit adds the token. */
async function look(client: ReturnType<typeof conduit>, id: string, connector: string): Promise<Look> {
  const problem = ({ status }: Answer<unknown>): Look => ({ kind: 'problem', text: `The provider answered with status ${status}.` });
  try {
    if (connector === 'drive') {
      const answer = await client.get<{ files: File[] }>(id, '/files');
      return answer.status === 200 ? { kind: 'files', files: answer.reply.files } : problem(answer);
    }
    const answer = await client.get<Record<string, unknown>>(id, '/me');
    return answer.status === 200 ? { kind: 'profile', profile: answer.reply } : problem(answer);
  } catch (error) {
    if (!(error instanceof ConduitError) || error.status === 401) return leave(error);
    if (error.needsReauthorization) return { kind: 'reconnect' };
    return { kind: 'problem', text: `This did not work: ${error.message}.` };
  }
}

function Files({ id, files, chosen }: { id: string; files: File[]; chosen?: File }) {
  return (
    <>
      {chosen && (
        <figure className="preview">
          {/* eslint-disable-next-line @next/next/no-img-element */}
          <img src={`/connections/${id}/files/${chosen.name}`} alt={chosen.title} />
          <figcaption>{chosen.title}</figcaption>
        </figure>
      )}
      <h2>Files</h2>
      <ul className="files">
        {files.map((file) => (
          <li key={file.name}>
            <Link href={`/connections/${id}?file=${file.name}`} aria-current={file === chosen ? 'true' : undefined}>
              <img src={`/connections/${id}/files/${file.name}`} alt="" />
              <span>{file.title}</span>
              <span className="small">{file.name}, {(file.size / 1024).toFixed(1)} kB</span>
            </Link>
          </li>
        ))}
      </ul>
    </>
  );
}

function Profile({ profile }: { profile: Record<string, unknown> }) {
  return (
    <>
      <h2>What it says of you</h2>
      <dl className="facts">
        {Object.entries(profile).map(([key, value]) => (
          <div key={key}><dt>{key}</dt><dd>{String(value)}</dd></div>
        ))}
      </dl>
    </>
  );
}

export default async function Page({ params, searchParams }: {
  params: Promise<{ id: string }>; searchParams: Promise<{ file?: string }>;
}) {
  const client = conduit(await requireUser());
  const { id } = await params;
  const { file } = await searchParams;
  const before = await client.connection(id).catch((error) => {
    if (error instanceof ConduitError && (error.status === 404 || error.status === 400)) notFound();
    return leave(error);
  });
  const connectors = await client.connectors();
  const name = connectors.find(({ slug }) => slug === before.connector)?.name ?? before.connector;
  const found = before.status === 'ACTIVE' ? await look(client, id, before.connector) : { kind: 'reconnect' as const };
  /* The call may have renewed the token, or shown that it cannot be. */
  const connection = await client.connection(id).catch(leave);

  return (
    <>
      <nav><Link href="/">Connections</Link> <span aria-hidden="true">/</span> {name}</nav>
      <div className="title">
        <Tile slug={connection.connector} name={name} />
        <div>
          <h1>{name} <Badge status={connection.status} /></h1>
          <p>{connection.account_label ?? connection.account ?? 'account unknown'}</p>
        </div>
        <Disconnect id={id} />
      </div>
      {found.kind === 'reconnect' && <Reconnect connection={connection} name={name} />}
      {found.kind === 'problem' && <aside className="notice" role="alert">{found.text}</aside>}
      <dl className="facts">
        <div><dt>Token renewed</dt><dd>{connection.last_refreshed_at ? <Ago at={connection.last_refreshed_at} /> : 'not yet'}</dd></div>
        <div><dt>Token expires</dt><dd>{connection.expires_at ? <Ago at={connection.expires_at} /> : 'never'}</dd></div>
        <div><dt>Generation</dt><dd>{connection.generation}</dd></div>
        <div><dt>Scopes</dt><dd>{connection.scopes?.join(', ') ?? 'unknown'}</dd></div>
      </dl>
      {found.kind === 'files' && <Files id={id} files={found.files} chosen={found.files.find(({ name: n }) => n === file)} />}
      {found.kind === 'profile' && <Profile profile={found.profile} />}
    </>
  );
}
