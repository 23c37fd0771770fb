import { vmnetChecks } from '../guest/vmnet-checks.ts';

vmnetChecks(256 * 1024 ** 2);
