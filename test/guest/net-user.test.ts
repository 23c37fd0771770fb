import { userNetworkChecks } from './net-user-checks.ts';

// The full amounts are in test/soak.
userNetworkChecks({ bytes: 8 * 1024 ** 2, connections: 50 });
