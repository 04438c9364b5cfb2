'use client';

export default function Problem({ reset }: { reset: () => void }) {
  return (
    <section className="welcome">
      <h1>That did not work.</h1>
      <p>The server’s log says why; nothing of it is told here.</p>
      <button className="primary" onClick={reset}>Try again</button>
    </section>
  );
}
