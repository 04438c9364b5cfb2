import type { Connection, Status } from '@/lib/conduit';

const words: Record<Status, string> = {
  ACTIVE: 'Connected',
  NEEDS_REAUTH: 'Needs you',
  REVOKED: 'Revoked',
};

export function Badge({ status }: { status: Status }) {
  return <span className={`badge ${status.toLowerCase()}`}>{words[status]}</span>;
}

/* A letter on a colour of its own for each connector. */
export function Tile({ slug, name }: { slug: string; name: string }) {
  const hue = [...slug].reduce((sum, letter) => (sum * 67 + letter.charCodeAt(0)) % 360, 300);
  return <span className="tile" style={{ ['--hue' as string]: hue }} aria-hidden="true">{name.slice(0, 1)}</span>;
}

/* Both connecting and connecting again: a form that leads to the provider. */
export function Connect({ connector, connection, label, className }: {
  connector: string; connection?: string; label: string; className?: string;
}) {
  return (
    <form action="/connect" method="post">
      <input type="hidden" name="connector" value={connector} />
      {connection && <input type="hidden" name="connection" value={connection} />}
      <button className={className}>{label}</button>
    </form>
  );
}

export function Disconnect({ id }: { id: string }) {
  return (
    <form action={`/connections/${id}/disconnect`} method="post">
      <button className="quiet danger">Disconnect</button>
    </form>
  );
}

/* Said of a connection whose refresh token the provider takes no more. */
export function Reconnect({ connection, name }: { connection: Connection; name: string }) {
  return (
    <aside className="notice" role="alert">
      <div>
        <strong>{name} has withdrawn its permission.</strong>
        <p>Nothing was lost here: connect {connection.account ?? 'the account'} again, and all goes on as before.</p>
      </div>
      <Connect connector={connection.connector} connection={connection.id} label="Reconnect" className="primary" />
    </aside>
  );
}

/* "in 3 minutes", "2 hours ago", of a time that comes from the server. */
export function Ago({ at }: { at: string | null }) {
  if (!at) return <>never</>;
  const seconds = (Date.parse(at) - Date.now()) / 1000;
  const units: [Intl.RelativeTimeFormatUnit, number][] = [['day', 86400], ['hour', 3600], ['minute', 60]];
  const [unit, length] = units.find(([, size]) => Math.abs(seconds) >= size) ?? ['second', 1];
  const text = new Intl.RelativeTimeFormat('en', { numeric: 'auto' }).format(Math.round(seconds / length), unit);
  return <time dateTime={at}>{text}</time>;
}
