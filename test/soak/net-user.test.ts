import { userNetworkChecks } from '../guest/net-user-checks.ts';

userNetworkChecks({ bytes: 256 * 1024 ** 2, connections: 2000 });
