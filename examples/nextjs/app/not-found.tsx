import Link from 'next/link';

export default function NotFound() {
  return (
    <section className="welcome">
      <h1>There is nothing here.</h1>
      <p>Or it is somebody else’s: these look the same.</p>
      <Link href="/" className="button">Back to your connections</Link>
    </section>
  );
}
