import type { Bus, IrqLine } from '../../kvm/bus.ts';
import { SharedLine } from '../shared-line.ts';
import { AcpiPm } from './acpi-pm.ts';
import { GpeBlock } from './gpe.ts';
import { type PanicEvent, Pvpanic } from './pvpanic.ts';
import { ResetControl } from './reset-control.ts';
import { checkPowerState, type PowerState } from './state.ts';
import { SystemControlA } from './system-control-a.ts';

export type PowerOptions = {
  readonly bus: Bus;
  readonly sci: IrqLine;
  /** the guest has entered S5 */
  readonly onPowerOff: () => void;
  /** the guest asks for a reset; may be called again before it takes effect */
  readonly onReset: () => void;
  readonly onPanic: (event: PanicEvent) => void;
};

/**
 * All by which a guest turns itself off, starts over or says that it has died, and the power button. The reset
 * control register lies within the ports of PCI configuration, which take it as {@link Power.resetControl}.
 */
export class Power {
  readonly resetControl: ResetControl;
  readonly #pm: AcpiPm;
  readonly #gpe: GpeBlock;
  readonly #systemControlA: SystemControlA;
  readonly #pvpanic: Pvpanic;

  constructor({ bus, sci, onPowerOff, onReset, onPanic }: PowerOptions) {
    this.resetControl = new ResetControl(onReset);
    const line = new SharedLine(sci);
    this.#pm = new AcpiPm({ bus, sci: line.source(), onPowerOff });
    this.#gpe = new GpeBlock(bus, line.source());
    this.#systemControlA = new SystemControlA(bus, onReset);
    this.#pvpanic = new Pvpanic(bus, onPanic);
  }

  /** Presses the ACPI power button. */
  powerButton(): void {
    this.#pm.powerButton();
  }

  /** Tells the guest that its VM generation id is another one. */
  generationChanged(): void {
    this.#gpe.raise('generation');
  }

  /** Power-on state. */
  reset(): void {
    this.#pm.reset();
    this.#gpe.reset();
    this.resetControl.restore(0);
    this.#systemControlA.reset();
  }

  pause(): void {
    this.#pm.pause();
  }

  resume(): void {
    this.#pm.resume();
  }

  close(): void {
    this.#pm.close();
    this.#gpe.close();
    this.#systemControlA.close();
    this.#pvpanic.close();
  }

  save(): PowerState {
    return {
      pm1: this.#pm.save(),
      gpe: this.#gpe.save(),
      resetControl: this.resetControl.read(),
      systemControlA: this.#systemControlA.save(),
    };
  }

  /** @throws DeviceStateError where `data` is not what {@link save} returns, with nothing changed */
  restore(data: unknown): void {
    const state = checkPowerState(data);
    this.#pm.restore(state.pm1);
    this.#gpe.restore(state.gpe);
    this.resetControl.restore(state.resetControl);
    this.#systemControlA.restore(state.systemControlA);
  }
}
