// report.js: turns the lines of bench/run.sh into a table or a plot.
//
//   node report.js text|markdown|svg MACHINE < results
//
// A line has five fields, parted by tabs: part, measure, target ("≥ 0.95",
// "≤ 1.2" or nothing), value, detail.

const fs = require('fs');

const [form, machine] = process.argv.slice(2);
const order = ['vend', 'scale', 'bulk', 'refresh', 'request', 'stop', 'memory'];
const rows = fs.readFileSync(0, 'utf8').split('\n').filter(Boolean).map((line) => {
	const [part, measure, target, value, detail] = line.split('\t');
	const [, sign, bound] = /^([≥≤]) ([\d.]+)/.exec(target) || [];
	const number = Number(value);
	const met = sign ? (sign === '≥' ? number >= +bound : number <= +bound) : null;
	// How many times better than the target; below 1 it is missed.
	const margin = sign ? (sign === '≥' ? number / bound : bound / Math.max(number, 1e-9)) : null;
	return { part, measure, target, value: shown(number), detail, met, margin };
}).sort((a, b) => order.indexOf(a.part) - order.indexOf(b.part));

function shown(number) {
	if (Number.isInteger(number))
		return String(number);
	return number >= 100 ? number.toFixed(0) : number >= 10 ? number.toFixed(1) : number >= 1 ? number.toFixed(2) : number.toFixed(3);
}

const verdict = (row) => (row.met === null ? '' : row.met ? 'met' : 'missed');

function text() {
	const width = Math.max(...rows.map((row) => row.measure.length));
	const lines = rows.map((row) =>
		`${row.measure.padEnd(width)}  ${row.value.padStart(9)}  ${row.target.padEnd(10)} ${verdict(row).padEnd(7)} ${row.detail}`);
	return [`${'measure'.padEnd(width)}  ${'median'.padStart(9)}  ${'target'.padEnd(10)}`, ...lines, '', machine, ''].join('\n');
}

function markdown() {
	const lines = rows.map((row) =>
		`| ${row.measure} | ${row.value} | ${row.target} | ${row.met === false ? '**missed**' : verdict(row)} | ${row.detail} |`);
	return ['# Results', '', `By \`./bench/run.sh --full --write\`: ${machine}. Each line's ratio is of one run. Medians; [README.md](README.md) tells what each line measures.`, '',
		'![each measure beside its target](results.svg)', '',
		'| measure | median | target | | in detail |', '|---|---:|---|---|---|', ...lines, ''].join('\n');
}

function svg() {
	const escape = (s) => s.replace(/&/g, '&amp;').replace(/</g, '&lt;');
	const bars = rows.filter((row) => row.margin !== null);
	const [left, right, top, step] = [510, 150, 64, 30];
	const width = 1110;
	const height = top + bars.length * step + 44;
	// A logarithmic scale around the target.
	const lowest = Math.min(0.5, ...bars.map((row) => row.margin));
	const highest = Math.max(2, ...bars.map((row) => row.margin));
	const x = (margin) => left + (Math.log(margin / lowest) / Math.log(highest / lowest)) * (width - left - right);
	const ticks = [0.1, 0.25, 0.5, 1, 2, 5, 10, 25, 50, 100].filter((tick) => tick >= lowest && tick <= highest);
	const grid = ticks.map((tick) =>
		`<line x1="${x(tick)}" x2="${x(tick)}" y1="${top - 8}" y2="${height - 36}" class="${tick === 1 ? 'target' : 'grid'}"/>` +
		`<text x="${x(tick)}" y="${height - 18}" class="tick">${tick === 1 ? 'target' : `${tick} ×`}</text>`);
	const drawn = bars.map((row, i) => {
		const y = top + i * step;
		const [from, to] = [Math.min(x(1), x(row.margin)), Math.max(x(1), x(row.margin))];
		return `<text x="${left - 14}" y="${y + 15}" class="name">${escape(row.measure)}</text>` +
			`<rect x="${from}" y="${y + 3}" width="${Math.max(to - from, 2)}" height="${step - 13}" rx="3" class="${row.met ? 'met' : 'missed'}"/>` +
			`<text x="${width - right + 14}" y="${y + 15}" class="value">${row.value}</text>` +
			`<text x="${width - 8}" y="${y + 15}" class="bound">${escape(row.target)}</text>`;
	});
	return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="13">
<style>
rect.back { fill: #fff } text { fill: #1f2933 }
.title { font-size: 17px; font-weight: 600 } .sub { fill: #52606d; font-size: 12px }
.name { text-anchor: end } .value { font-weight: 600 } .bound { text-anchor: end; fill: #7b8794; font-size: 12px }
.tick { text-anchor: middle; fill: #7b8794; font-size: 11px }
.grid { stroke: #e4e7eb } .target { stroke: #1f2933; stroke-width: 1.5 }
.met { fill: #2f9e6e } .missed { fill: #d64545 }
</style>
<rect class="back" width="100%" height="100%"/>
<text x="20" y="26" class="title">How many times better than its target each measure is</text>
<text x="20" y="45" class="sub">${escape(machine)}; logarithmic scale</text>
${grid.join('\n')}
${drawn.join('\n')}
</svg>
`;
}

process.stdout.write({ text, markdown, svg }[form]());
