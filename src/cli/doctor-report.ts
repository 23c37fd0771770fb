import { styleText } from 'node:util';

import { CAPABILITY_PREFIX, type Check, type CheckStatus } from '../manager/doctor/check.ts';
import type { DoctorReport } from '../manager/doctor/doctor.ts';

export type ReportStyle = {
  /** columns for a person; else one line a check for logs */
  readonly table: boolean;
  readonly colours: boolean;
};

const COLOUR = { ok: 'green', warning: 'yellow', missing: 'red' } as const;

/** A doctor's report as text. */
export function formatReport(report: DoctorReport, style: ReportStyle): string {
  const checks = joinCapabilities(report.checks);
  const lines = style.table ? tableLines(checks, style) : checks.flatMap(plainLines);
  const verdict = report.usable
    ? 'This machine can run guests.'
    : 'This machine cannot run guests: see what is missing above.';
  return `${[...lines, ...(style.table ? [''] : []), verdict].join('\n')}\n`;
}

/** Capabilities that are all there are one line: nobody reads twenty that say yes. */
function joinCapabilities(checks: readonly Check[]): readonly Check[] {
  const capabilities = checks.filter(({ id }) => id.startsWith(CAPABILITY_PREFIX));
  const [first] = capabilities;
  if (first === undefined || capabilities.some(({ status }) => status !== 'ok')) return checks;
  const joined = { ...first, title: 'KVM capabilities', detail: `all ${capabilities.length} there` };
  return checks.flatMap((check) => {
    if (check === first) return [joined];
    return check.id.startsWith(CAPABILITY_PREFIX) ? [] : [check];
  });
}

function plainLines({ status, title, detail, purpose, fix }: Check): string[] {
  const line = `${status}: ${title}: ${detail}`;
  if (status === 'ok') return [line];
  return [`${line} (for: ${purpose})`, ...(fix === undefined ? [] : [`fix: ${title}: ${fix}`])];
}

function tableLines(checks: readonly Check[], { colours }: ReportStyle): string[] {
  const wide = Math.max(...checks.map(({ title }) => title.length));
  const indent = ' '.repeat('missing'.length + 2 + wide + 2);
  const paint = (status: CheckStatus): string => {
    const text = status.padEnd('missing'.length);
    return colours ? styleText(COLOUR[status], text, { validateStream: false }) : text;
  };
  return checks.flatMap(({ status, title, detail, purpose, fix }) => [
    `${paint(status)}  ${title.padEnd(wide)}  ${detail}`,
    ...(status === 'ok' ? [] : [`${indent}for: ${purpose}`]),
    ...(status === 'ok' || fix === undefined ? [] : [`${indent}fix: ${fix}`]),
  ]);
}
