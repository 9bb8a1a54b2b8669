/** The helper, built by the build script; imported as a file, so the value is its path. */
declare module "*/crib-monitor" {
  const path: string;
  export default path;
}
