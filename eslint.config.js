import tseslint from 'typescript-eslint';

export default tseslint.config(
  { ignores: ['node_modules', 'build', 'dist', '.cache', 'coverage'] },
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.strictTypeChecked, tseslint.configs.stylisticTypeChecked],
    languageOptions: { parserOptions: { projectService: true } },
    rules: {
      // Type aliases throughout: they compose, and nothing can merge into them by accident.
      '@typescript-eslint/consistent-type-definitions': ['error', 'type'],
      // Typed arrays are indexed in bounds by construction; noUncheckedIndexedAccess asks for the mark.
      '@typescript-eslint/no-non-null-assertion': 'off',
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true },
      ],
      '@typescript-eslint/no-confusing-void-expression': 'off',
    },
  },
  {
    files: ['src/**/*.ts'],
    ignores: ['src/kvm/native.ts'],
    rules: {
      'no-restricted-imports': [
        'error',
        { patterns: [{ group: ['*.node'], message: 'Only src/kvm/native.ts loads the addon.' }] },
      ],
    },
  },
);
