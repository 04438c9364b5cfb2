import type { Metadata } from 'next';
import Link from 'next/link';
import type { ReactNode } from 'react';

import { getSession } from '@/lib/session';

import './style.css';

export const metadata: Metadata = {
  title: 'Workbench',
  description: 'Connected accounts, with Conduit',
  icons: { icon: '/icon.svg' },
};

export default async function Layout({ children }: { children: ReactNode }) {
  const { user } = await getSession();
  return (
    <html lang="en">
      <body>
        <header>
          <Link href="/" className="brand">
            <svg viewBox="0 0 32 32" aria-hidden="true">
              <path d="M4 22V10l12-6 12 6v12l-12 6z" />
              <path d="M4 10l12 6 12-6M16 16v12" />
            </svg>
            Workbench
          </Link>
          {user && (
            <form action="/logout" method="post" className="who">
              <span className="avatar" aria-hidden="true">{user.name.slice(0, 1).toUpperCase()}</span>
              <span className="name">{user.name}</span>
              <button className="quiet">Log out</button>
            </form>
          )}
        </header>
        <main>{children}</main>
        <footer>
          The tokens of these accounts are sealed in PostgreSQL by Conduit. This page, and the server that made it, have never seen one.
        </footer>
      </body>
    </html>
  );
}
