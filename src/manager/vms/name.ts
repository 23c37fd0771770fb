/** A VM's name is a host name too, and a file's: nothing else may come of it. */
const NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;

export class VmNameError extends RangeError {
  override readonly name = 'VmNameError';
  readonly code = 'ENAME';
}

export const isVmName = (name: string): boolean => NAME.test(name);

/** @throws VmNameError */
export function checkVmName(name: string): string {
  if (isVmName(name)) return name;
  throw new VmNameError(
    `'${name}' is no name for a VM: 1 to 63 lower-case letters, digits and dashes, with no dash at either end`,
  );
}
