/** Taps of Linux and network interfaces by name. All of these throw KvmError. */
import { native } from './native.ts';

/**
 * Opens a tap, with offload headers of 12 bytes; makes it where there is none of this name, until the last descriptor
 * is closed.
 * @param name up to 15 bytes; one with `%d` makes the kernel choose a number
 */
export function openTap(name: string, multiQueue: boolean): { readonly fd: number; readonly name: string } {
  return native().tap.open(name, multiQueue);
}

/** @param offloads what the reader of a tap takes undone: a set of `OFFLOAD` */
export function setTapOffloads(fd: number, offloads: number): void {
  native().tap.offloads(fd, offloads);
}

/** Whether the host sees a link. */
export function setTapCarrier(fd: number, up: boolean): void {
  native().tap.carrier(fd, up);
}

/** Whether a queue of a multi-queue tap is in use: the host puts no frames into others. */
export function useTapQueue(fd: number, used: boolean): void {
  native().tap.attach(fd, used);
}

export function interfaceExists(name: string): boolean {
  return native().tap.index(name) !== 0;
}

/** In bytes. */
export function interfaceMtu(name: string): number {
  return native().tap.mtu(name);
}

export function setInterfaceMtu(name: string, mtu: number): void {
  native().tap.setMtu(name, mtu);
}

export function bringInterfaceUp(name: string): void {
  native().tap.up(name);
}

/** Makes an interface a port of a bridge. */
export function joinBridge(bridge: string, name: string): void {
  native().tap.joinBridge(bridge, name);
}
