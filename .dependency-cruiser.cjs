/** The layers, top to bottom. A module imports from its own layer and from those below it. */
const LAYERS = [
  ['cli', '^src/cli/'],
  ['library', '^src/(index\\.ts$|testing/)'],
  ['manager', '^src/manager/'],
  ['vmm', '^src/vmm/'],
  ['machine', '^src/machine/'],
  ['devices', '^src/devices/'],
  ['virtio', '^src/virtio/'],
  ['boot', '^src/boot/'],
  ['storage and net', '^src/(storage|net)/'],
  ['kvm', '^src/kvm/'],
];

module.exports = {
  forbidden: [
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true } },
    {
      name: 'known-layers',
      comment: 'Every source file belongs to a layer.',
      severity: 'error',
      from: { path: '^src/', pathNot: LAYERS.map(([, path]) => path) },
      to: {},
    },
    {
      name: 'native-only-in-kvm',
      comment: 'src/kvm/native.ts alone touches the addon; other layers see src/kvm.',
      severity: 'error',
      from: { pathNot: '^src/kvm/' },
      to: { path: '^src/kvm/native\\.ts$' },
    },
    ...LAYERS.slice(1).map(([name, path], i) => ({
      name: `${name.replaceAll(' ', '-')}-imports-downwards`,
      severity: 'error',
      from: { path },
      to: { path: LAYERS.slice(0, i + 1).map(([, upper]) => upper) },
    })),
  ],
  options: {
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    doNotFollow: { path: 'node_modules' },
  },
};
