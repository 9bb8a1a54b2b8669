/** Tables of the image and layer store (src/image, src/storage). */
export const imageSchema = "";
