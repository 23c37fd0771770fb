import { vmnetChecks } from './vmnet-checks.ts';

// The full amount is in test/soak.
vmnetChecks(8 * 1024 ** 2);
