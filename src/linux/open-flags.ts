/** open(2): a handle of what is at a path, which is not opened itself. node:fs has no name for it. */
export const O_PATH = 0o10000000;
