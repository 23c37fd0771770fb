import * as v from 'valibot';
import { unsigned } from '../kvm/device-state.ts';

const vector = unsigned(0xffff);

export const mmioSchema = v.strictObject({ core: v.unknown(), interruptStatus: unsigned(3) });

export const pciSchema = v.strictObject({
  core: v.unknown(),
  isr: unsigned(3),
  configVector: vector,
  queueVectors: v.array(vector),
});
