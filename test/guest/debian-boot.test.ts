/** A Debian as images/debian builds it, and what its packages have in them. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { buildDebian, type DebianSystem } from '../../images/debian/system.ts';
import { listedPackages, parsePackageList } from '../../images/debian/archive.ts';
import { extractBoot, type ExtractedBoot } from '../../src/manager/images/boot/extract.ts';
import { withGuestDisk } from '../../src/storage/guest-fs/guest-disk.ts';

let debian: DebianSystem;
let folder: string;
let extracted: ExtractedBoot;
/** Some with many files, some with large ones, and links to folders in their paths. */
const PACKAGES = ['bash', 'coreutils', 'dpkg', 'kmod', 'systemd'];
const expected: string[] = [];
const found: string[] = [];

const md5 = (bytes: Uint8Array): string => createHash('md5').update(bytes).digest('hex');

beforeAll(async () => {
  debian = await buildDebian();
  folder = mkdtempSync(join(tmpdir(), 'tsvm-debian-boot-'));
  await withGuestDisk({ path: debian.disk }, async (disk) => {
    extracted = await extractBoot(disk, folder);
    const fs = await disk.volumes[0]!.open();
    for (const name of PACKAGES) {
      const sums = Buffer.from(await fs.readFile(`/var/lib/dpkg/info/${name}.md5sums`, 2 ** 20)).toString();
      for (const line of sums.trimEnd().split('\n')) {
        const [sum = '', path = ''] = line.split(/ +(.*)/);
        expected.push(`${sum} ${path}`);
        found.push(`${md5(await fs.readFile(path, 2 ** 26))} ${path}`);
      }
    }
  });
}, 600_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

test("the kernel that is taken out of the disk is the package's, byte for byte", async () => {
  const name = `linux-image-${debian.kernelVersion}`;
  const listing = parsePackageList(readFileSync(debian.packages, 'utf8'), debian.packages);
  const [kernel] = await listedPackages(listing.filter((each) => each.name === name));
  const tar = execFileSync('dpkg-deb', ['--fsys-tarfile', kernel!.deb], { maxBuffer: 2 ** 30 });
  const path = `./boot/vmlinuz-${debian.kernelVersion}`;
  const packed = execFileSync('tar', ['-xOf', '-', path], { input: tar, maxBuffer: 2 ** 27 });
  expect(sha256(readFileSync(extracted.kernel))).toBe(sha256(packed));
});

test('the initrd is the one that was copied out of the tree before there was a disk', () => {
  expect(extracted.initrds.map((initrd) => sha256(readFileSync(initrd)))).toEqual([
    sha256(readFileSync(debian.initrd)),
  ]);
});

test('the command line names the root file system', () => {
  expect(extracted.commandLine).toMatch(/^root=UUID=[0-9a-f-]{36} ro$/);
  expect(extracted.boot.rootPartition?.offset).toBe(debian.rootOffset);
});

test('the files of packages have the checksums that the packages say', () => {
  expect(found.length).toBeGreaterThan(100);
  expect(found).toEqual(expected);
});
