import Link from 'next/link';

import { Ago, Badge, Connect, Disconnect, Tile } from '@/components/parts';
import { conduit, leave, type Connection, type Connector } from '@/lib/conduit';
import { getSession } from '@/lib/session';

const problems: Record<string, string> = {
  login: 'The log-in did not work. Please try again.',
  denied: 'You have not given your permission, so nothing was connected.',
  account: 'That was another account. Connect it as a new one instead.',
  authorization: 'The provider’s answer did not belong to this visit. Please try again.',
};

function Welcome() {
  return (
    <section className="welcome">
      <h1>Your accounts,<br />one workbench.</h1>
      <p>Connect the services you work with. Their tokens stay in the database, sealed; the browser holds a cookie that means nothing.</p>
      <form action="/login" method="post"><button className="primary large">Log in</button></form>
    </section>
  );
}

function Card({ connection, name }: { connection: Connection; name: string }) {
  return (
    <li className="card">
      <Tile slug={connection.connector} name={name} />
      <div className="about">
        <h3><Link href={`/connections/${connection.id}`}>{name}</Link> <Badge status={connection.status} /></h3>
        <p>{connection.account_label ?? connection.account ?? 'account unknown'}</p>
        <p className="small">
          {connection.status === 'ACTIVE'
            ? <>Connected <Ago at={connection.created_at} />{connection.last_refreshed_at && <>, renewed <Ago at={connection.last_refreshed_at} /></>}</>
            : 'The provider no longer takes our permission.'}
        </p>
      </div>
      <div className="actions">
        {connection.status === 'NEEDS_REAUTH'
          ? <Connect connector={connection.connector} connection={connection.id} label="Reconnect" className="primary" />
          : <Link href={`/connections/${connection.id}`} className="button">Open</Link>}
        <Disconnect id={connection.id} />
      </div>
    </li>
  );
}

function Offer({ connector }: { connector: Connector }) {
  return (
    <li className="offer">
      <Tile slug={connector.slug} name={connector.name} />
      <h3>{connector.name}</h3>
      <Connect connector={connector.slug} label="Connect" />
    </li>
  );
}

export default async function Page({ searchParams }: { searchParams: Promise<{ problem?: string }> }) {
  const { problem } = await searchParams;
  const { user } = await getSession();
  const notice = problem && problems[problem] && <aside className="notice" role="alert">{problems[problem]}</aside>;
  if (!user) return <>{notice}<Welcome /></>;

  const client = conduit(user);
  const [connectors, all] = await Promise.all([client.connectors(), client.connections()]).catch(leave);
  const connections = all.filter(({ status, has_credential: stored }) => stored || status !== 'ACTIVE');
  const nameOf = (slug: string) => connectors.find((connector) => connector.slug === slug)?.name ?? slug;
  const waiting = connections.filter(({ status }) => status === 'NEEDS_REAUTH').length;
  return (
    <>
      {notice}
      <h1>Connections</h1>
      <p className="lead">
        {connections.length === 0 ? 'Nothing is connected yet.'
          : waiting > 0 ? `${waiting} of ${connections.length} ${waiting === 1 ? 'needs' : 'need'} you.`
            : 'All of them are well.'}
      </p>
      <ul className="cards">
        {connections.map((connection) => (
          <Card key={connection.id} connection={connection} name={nameOf(connection.connector)} />
        ))}
      </ul>
      <h2>Connect an account</h2>
      <ul className="offers">
        {connectors.map((connector) => <Offer key={connector.slug} connector={connector} />)}
      </ul>
    </>
  );
}
