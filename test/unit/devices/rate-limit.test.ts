import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { RateLimiter, TokenBucket } from '../../../src/devices/rate-limit.ts';

describe('a token bucket', () => {
  test('is open until its burst is spent, and again after a token has come in', () => {
    const bucket = new TokenBucket({ rate: 1000, burst: 10 }, 0);
    for (let i = 0; i < 10; i++) {
      expect(bucket.wait(0)).toBe(0);
      bucket.take(1);
    }
    expect(bucket.wait(0)).toBe(1);
    expect(bucket.wait(1)).toBe(0);
  });

  test('lets any amount pass while it is open, and makes the next wait for the debt', () => {
    const bucket = new TokenBucket({ rate: 1000, burst: 10 }, 0);
    bucket.take(510);
    expect(bucket.wait(0)).toBe(501);
    expect(bucket.wait(400)).toBe(101);
    expect(bucket.wait(501)).toBe(0);
  });

  test('holds no more than its burst however long nothing happens', () => {
    const bucket = new TokenBucket({ rate: 1000, burst: 10 }, 0);
    bucket.wait(1e9);
    bucket.take(10);
    expect(bucket.wait(1e9)).toBeGreaterThan(0);
  });

  test('has a burst of a tenth of a second where none is given', () => {
    const bucket = new TokenBucket({ rate: 1000 }, 0);
    bucket.take(99);
    expect(bucket.wait(0)).toBe(0);
    bucket.take(1);
    expect(bucket.wait(0)).toBe(1);
  });

  test('takes less than five milliseconds of its rate for that', () => {
    const bucket = new TokenBucket({ rate: 10_000, burst: 0 }, 0);
    bucket.take(49);
    expect(bucket.wait(0)).toBe(0);
  });

  test('is not moved by a clock that goes back', () => {
    const bucket = new TokenBucket({ rate: 1000, burst: 10 }, 100);
    bucket.take(10);
    expect(bucket.wait(0)).toBe(1);
  });

  test.each([0, -1, NaN, Infinity])('a rate of %d is none', (rate) => {
    expect(() => new TokenBucket({ rate }, 0)).toThrow(RangeError);
  });

  test.each([-1, NaN, Infinity])('a burst of %d is none', (burst) => {
    expect(() => new TokenBucket({ rate: 1, burst }, 0)).toThrow(RangeError);
  });
});

describe('a limiter', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  test('without limits admits everything', () => {
    const limiter = new RateLimiter({}, () => expect.fail('nothing was refused'));
    for (let i = 0; i < 1000; i++) {
      expect(limiter.admits()).toBe(true);
      limiter.spend(1e9);
    }
  });

  test('calls once when requests may pass again, however often it has refused', () => {
    const ready = vi.fn();
    const limiter = new RateLimiter({ operations: { rate: 100, burst: 1 } }, ready);
    limiter.spend(0);
    for (let i = 0; i < 5; i++) expect(limiter.admits()).toBe(false);
    vi.advanceTimersByTime(9);
    expect(ready).not.toHaveBeenCalled();
    vi.advanceTimersByTime(2);
    expect(ready).toHaveBeenCalledTimes(1);
    expect(limiter.admits()).toBe(true);
    expect(vi.getTimerCount()).toBe(0);
  });

  test('waits for the slower of its two limits', () => {
    const ready = vi.fn();
    const limits = { operations: { rate: 1000, burst: 5 }, bytes: { rate: 1000, burst: 5 } };
    const limiter = new RateLimiter(limits, ready);
    limiter.spend(204);
    expect(limiter.admits()).toBe(false);
    vi.advanceTimersByTime(199);
    expect(ready).not.toHaveBeenCalled();
    vi.advanceTimersByTime(1);
    expect(ready).toHaveBeenCalledTimes(1);
  });

  test('lets through what its rate says over a long time', () => {
    const limiter = new RateLimiter({ operations: { rate: 250, burst: 10 } }, () => serve());
    let served = 0;
    const serve = (): void => {
      while (limiter.admits()) {
        limiter.spend(0);
        served++;
      }
    };
    serve();
    vi.advanceTimersByTime(10_000);
    expect(served).toBeGreaterThanOrEqual(2490);
    expect(served).toBeLessThanOrEqual(2510);
  });

  test('a rate so slow that no timer waits that long does not spin', () => {
    const ready = vi.fn();
    const limiter = new RateLimiter({ bytes: { rate: 1, burst: 0 } }, ready);
    limiter.spend(1e9);
    expect(limiter.admits()).toBe(false);
    vi.advanceTimersByTime(10_000_000);
    expect(ready).not.toHaveBeenCalled();
  });

  test('that is stopped calls no more', () => {
    const ready = vi.fn();
    const limiter = new RateLimiter({ operations: { rate: 100, burst: 1 } }, ready);
    limiter.spend(0);
    limiter.admits();
    limiter.stop();
    expect(vi.getTimerCount()).toBe(0);
    vi.advanceTimersByTime(1000);
    expect(ready).not.toHaveBeenCalled();
    expect(limiter.admits()).toBe(true);
  });
});
