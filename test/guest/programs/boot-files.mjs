// Boots every pair of files named on the command line through the library, each with a time limit, and prints one
// JSON line for each: what became of it. `node boot-files.mjs LIBRARY LIMIT_MS '[["kernel","initrd"], ...]'`
const [library, limit, list] = process.argv.slice(2);
const { startVm } = await import(library);

for (const [kernel, initrd] of JSON.parse(list)) {
  const outcome = await boot(kernel, initrd);
  console.log(JSON.stringify({ kernel, initrd, ...outcome }));
}

async function boot(kernel, initrd) {
  let vm;
  try {
    vm = await startVm({
      kernel,
      initrds: [initrd],
      cmdline: 'console=ttyS0 quiet panic=-1',
      memory: 256 * 2 ** 20,
      noReboot: true,
    });
  } catch (error) {
    return { outcome: 'refused', error: error.name, code: error.code, message: error.message };
  }
  const timer = setTimeout(() => void vm.stop(), Number(limit));
  const { reason, message } = await vm.exited;
  clearTimeout(timer);
  return { outcome: reason, message };
}
