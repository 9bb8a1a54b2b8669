/** CRC-32 over zeros that nobody has to make: those of a hole may be more than a disk holds. */

/** Bits of the reversed polynomial of CRC-32 (ISO 3309), as zlib has it. */
const POLYNOMIAL = 0xedb88320;
const BITS = 32;

/** A linear map of the 32 bits of a CRC: what each bit becomes. */
type Matrix = readonly number[];

/** The CRC-32 of some bytes whose CRC-32 is `crc`, and `count` zeros after them. */
export function crcWithZeros(crc: number, count: number): number {
  // A CRC begins and ends inverted; in between a zero byte is eight steps of a linear map.
  let register = ~crc;
  let step = repeated(ONE_BIT, 3);
  for (let left = count; left > 0; left = Math.floor(left / 2)) {
    if (left % 2 === 1) register = applied(step, register);
    step = squared(step);
  }
  return ~register >>> 0;
}

const ONE_BIT: Matrix = Array.from({ length: BITS }, (_, bit) =>
  bit === 0 ? POLYNOMIAL : 2 ** (bit - 1),
);

function applied(matrix: Matrix, value: number): number {
  let result = 0;
  for (let bit = 0; bit < BITS; bit++) {
    if ((value >>> bit) & 1) result ^= matrix[bit] ?? 0;
  }
  return result;
}

function squared(matrix: Matrix): Matrix {
  return matrix.map((column) => applied(matrix, column));
}

function repeated(matrix: Matrix, doublings: number): Matrix {
  return doublings === 0 ? matrix : repeated(squared(matrix), doublings - 1);
}
