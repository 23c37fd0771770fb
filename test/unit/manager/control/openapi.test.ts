/** The API's description and the API itself, held against each other. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { describe, expect, it, test } from 'vitest';
import { packageRoot } from '../../../../images/debian/cache.ts';
import { ROUTES } from '../../../../src/manager/control/routes.ts';
import * as types from '../../../../src/manager/control/types.ts';

type Schema = {
  readonly type?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly enum?: readonly string[];
};
type Operation = {
  readonly requestBody?: {
    readonly content: { readonly 'application/json': { readonly schema: { readonly $ref: string } } };
  };
};
type Document = {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, Schema>> };
};

const document = JSON.parse(
  readFileSync(join(packageRoot(), 'src/manager/control/openapi.json'), 'utf8'),
) as Document;
const { schemas } = document.components;

/** What of a schema both sides can say: the names and which of them must be there, all the way down. */
function shapeOf(schema: Schema): unknown {
  if (schema.enum !== undefined) return [...schema.enum];
  if (schema.items !== undefined) return [shapeOf(schema.items)];
  if (schema.properties === undefined) return 'value';
  return Object.fromEntries(
    Object.entries(schema.properties).map(([name, each]) => [
      schema.required?.includes(name) === true ? name : `${name}?`,
      shapeOf(each),
    ]),
  );
}

type Described = {
  readonly type: string;
  readonly entries?: Readonly<Record<string, Described>>;
  readonly wrapped?: Described;
  readonly item?: Described;
  readonly options?: readonly string[];
};

function shapeOfValidator(schema: Described): unknown {
  if (schema.wrapped !== undefined) return shapeOfValidator(schema.wrapped);
  if (schema.type === 'picklist') return [...(schema.options ?? [])];
  if (schema.item !== undefined) return [shapeOfValidator(schema.item)];
  if (schema.entries === undefined) return 'value';
  return Object.fromEntries(
    Object.entries(schema.entries).map(([name, each]) => [
      each.type === 'optional' ? `${name}?` : name,
      shapeOfValidator(each),
    ]),
  );
}

const shapeOfGeneric = (schema: v.GenericSchema): unknown => shapeOfValidator(schema);

test('every request of the API is described, and nothing else', () => {
  const described = Object.entries(document.paths).flatMap(([path, operations]) =>
    Object.keys(operations).map((method) => `${method.toUpperCase()} ${path}`),
  );
  expect(described.sort()).toEqual(ROUTES.map(({ method, path }) => `${method} ${path}`).sort());
});

describe('the body of a request is what is described', () => {
  it.each(ROUTES.map((route) => [`${route.method} ${route.path}`, route] as const))('%s', (_, route) => {
    const operation = document.paths[route.path]?.[route.method.toLowerCase()];
    const reference = operation?.requestBody?.content['application/json'].schema.$ref;
    const described = reference === undefined ? undefined : schemas[reference.split('/').at(-1)!];
    expect(described && shapeOf(described)).toEqual(route.body && shapeOfGeneric(route.body));
  });
});

describe('the answer is what is described', () => {
  it.each([
    ['Vm', types.vmDescription],
    ['Metrics', types.vmMetrics],
    ['ExecResult', types.execAnswer],
    ['SnapshotTaken', types.snapshotAnswer],
    ['Error', types.errorAnswer],
  ] as const)('%s', (name, validator) => {
    expect(shapeOf(schemas[name]!)).toEqual(shapeOfGeneric(validator));
  });
});
