/** What a layer has been left without: the first few are told, the others counted. */

const TOLD = 5;
const TEXT_LIMIT = 400;

export class Warnings {
  readonly #first: string[] = [];
  #count = 0;

  add(text: string): void {
    this.#count += 1;
    if (this.#first.length < TOLD) this.#first.push(text.slice(0, TEXT_LIMIT));
  }

  list(): string[] {
    const more = this.#count - this.#first.length;
    return more > 0 ? [...this.#first, `and ${more} more`] : [...this.#first];
  }
}
