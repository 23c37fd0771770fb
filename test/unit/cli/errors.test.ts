import { open } from 'node:fs/promises';

import { describe, expect, it } from 'vitest';

import { errorMessage, formatError, UsageError } from '../../../src/cli/errors.ts';

describe('formatError', () => {
  it('is one line', () => {
    expect(formatError(new Error('first\n  second'), false)).toBe('tsvm: first; second\n');
  });

  it('adds the hint that an error carries', () => {
    const error = Object.assign(new Error('open failed on /dev/kvm: permission denied'), {
      hint: 'join kvm',
    });
    expect(formatError(error, false)).toBe(
      'tsvm: open failed on /dev/kvm: permission denied\nhint: join kvm\n',
    );
  });

  it('finds the hint of a cause', () => {
    const error = new Error('start failed on vm1', {
      cause: new UsageError('no such CPU feature', 'try +avx'),
    });
    expect(formatError(error, false)).toBe(
      'tsvm: start failed on vm1: no such CPU feature\nhint: try +avx\n',
    );
  });

  it('says what failed on which file for a system call', async () => {
    const error: unknown = await open('/nonexistent/vmlinuz').catch((reason: unknown) => reason);
    expect(formatError(error, false)).toBe(
      'tsvm: open failed on /nonexistent/vmlinuz: no such file or directory\n',
    );
  });

  it('shows the stack only when debugging', () => {
    const error = new Error('it broke');
    expect(formatError(error, true)).toContain('errors.test.ts');
    expect(formatError(error, false)).not.toContain('errors.test.ts');
  });
});

describe('errorMessage', () => {
  it('adds the cause, but not twice', () => {
    const cause = new Error('disk full');
    expect(errorMessage(new Error('save failed', { cause }))).toBe('save failed: disk full');
    expect(errorMessage(new Error('save failed: disk full', { cause }))).toBe('save failed: disk full');
  });

  it('takes what is no error', () => {
    expect(errorMessage('plain')).toBe('plain');
    expect(errorMessage(undefined)).toBe('undefined');
  });

  it('names an error without a message', () => {
    expect(errorMessage(new RangeError())).toBe('RangeError');
  });
});
