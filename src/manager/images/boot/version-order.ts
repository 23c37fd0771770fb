/** Versions in the order of the Version Format Specification (UAPI.10), which boot loaders sort entries by. */

/** Less than 0 where `a` is older, 0 where they are as good as the same. */
export function compareVersions(a: string, b: string): number {
  let [left, right] = [a, b];
  for (;;) {
    left = left.replace(/^[^a-zA-Z0-9~^.-]+/, '');
    right = right.replace(/^[^a-zA-Z0-9~^.-]+/, '');
    if (left.startsWith('~') || right.startsWith('~')) {
      if (!right.startsWith('~')) return -1;
      if (!left.startsWith('~')) return 1;
      [left, right] = [left.slice(1), right.slice(1)];
      continue;
    }
    if (left === '' || right === '') return Math.sign(left.length - right.length);
    // Of these, the first two make a version older than one that goes on in another way, the last one newer.
    const mark = ['-', '.', '^'].find((each) => left.startsWith(each) || right.startsWith(each));
    if (mark !== undefined) {
      const sign = mark === '^' ? 1 : -1;
      if (!right.startsWith(mark)) return sign;
      if (!left.startsWith(mark)) return -sign;
      [left, right] = [left.slice(1), right.slice(1)];
      continue;
    }
    const isNumber = /^[0-9]/.test(left) || /^[0-9]/.test(right);
    const pattern = isNumber ? /^[0-9]*/ : /^[a-zA-Z]*/;
    const [one, other] = [pattern.exec(left)![0], pattern.exec(right)![0]];
    const order = isNumber ? compareNumbers(one, other) : one < other ? -1 : one > other ? 1 : 0;
    if (order !== 0) return order;
    [left, right] = [left.slice(one.length), right.slice(other.length)];
  }
}

/** Of any length; no digits are less than any. */
function compareNumbers(a: string, b: string): number {
  if (a === '' || b === '') return Math.sign(a.length - b.length);
  const [one, other] = [a.replace(/^0+/, ''), b.replace(/^0+/, '')];
  if (one.length !== other.length) return Math.sign(one.length - other.length);
  return one < other ? -1 : one > other ? 1 : 0;
}
