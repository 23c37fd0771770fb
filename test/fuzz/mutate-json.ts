import type { Random } from './random.ts';

const NUMBERS = [
  ...[0, 1, -1, 0.5, 4095, 4096, 0xff, 0x100, 0xffff, 0x1_0000, 0x7fff_ffff, 0xffff_ffff, 2 ** 32],
  ...[2 ** 52 + 4096, Number.MAX_SAFE_INTEGER, 2 ** 53, -4096, 1e300, -0],
];
const TEXTS = ['', '0', 'AAAA', '====', 'A', '\0', '../memory', '__proto__', 'ä'.repeat(40), '9'.repeat(25)];
const LETTERS = ['0', '1', '8', '9', 'A', 'Z', 'a', 'z', '+', '/', '=', '-'];
const KEYS = ['__proto__', 'constructor', 'length', '0', 'more', ''];

/** an array, or an object's properties */
type Parts = Record<string, unknown>;

const isObject = (value: unknown): value is Parts => typeof value === 'object' && value !== null;

/** A place that holds a value: an array's element or an object's property. */
type Place = { readonly within: Parts; readonly key: string };

const at = ({ within, key }: Place): unknown => within[key];

function put({ within, key }: Place, value: unknown): void {
  // An own property, whatever it is called, as JSON.parse makes them.
  Object.defineProperty(within, key, { value, enumerable: true, configurable: true, writable: true });
}

/** Steps down from the root, so that small parts are met as often as large ones. */
function somewhere(random: Random, root: unknown): Place | undefined {
  let place: Place | undefined;
  for (let value = root; isObject(value);) {
    const keys = Object.keys(value);
    if (keys.length === 0) break;
    place = { within: value, key: random.pick(keys) };
    value = at(place);
    if (random.oneIn(8)) break;
  }
  return place;
}

function another(random: Random): unknown {
  switch (random.below(6)) {
    case 0:
      return random.pick(NUMBERS);
    case 1:
      return random.pick(TEXTS);
    case 2:
      return random.oneIn(2);
    case 3:
      return null;
    case 4:
      return random.oneIn(2) ? [] : {};
    default:
      return random.word();
  }
}

/** Something of the same kind, so that it is looked at more closely. */
function alike(random: Random, value: unknown): unknown {
  if (typeof value === 'number') {
    switch (random.below(3)) {
      case 0:
        return value + random.pick([-4096, -1, 1, 2, 4096]);
      case 1:
        return (value ^ (1 << random.below(32))) >>> 0;
      default:
        return random.pick(NUMBERS);
    }
  }
  if (typeof value === 'boolean') return !value;
  if (typeof value !== 'string') return another(random);
  const cut = random.below(value.length + 1);
  switch (random.below(4)) {
    case 0:
      return value.slice(0, cut);
    case 1:
      return value.slice(0, cut) + random.pick(TEXTS) + value.slice(cut);
    case 2: {
      const letters = value.split('');
      if (letters.length > 0) letters[random.below(letters.length)] = random.pick(LETTERS);
      return letters.join('');
    }
    default:
      return value.repeat(random.between(2, 3));
  }
}

/** Changes a value here and there, in place. */
export function mutateJson(random: Random, root: unknown): void {
  for (let i = random.between(1, 4); i > 0; i--) {
    const place = somewhere(random, root);
    if (place === undefined) return;
    const value = at(place);
    switch (random.below(8)) {
      case 0:
        put(place, another(random));
        break;
      case 1:
        if (Array.isArray(place.within)) place.within.splice(Number(place.key), 1);
        else Reflect.deleteProperty(place.within, place.key);
        break;
      case 2:
        if (Array.isArray(place.within)) place.within.push(structuredClone(value));
        else put({ within: place.within, key: random.pick(KEYS) }, structuredClone(value));
        break;
      case 3: {
        const other = somewhere(random, root);
        if (other !== undefined) put(place, structuredClone(at(other)));
        break;
      }
      default:
        put(place, alike(random, value));
    }
  }
}
