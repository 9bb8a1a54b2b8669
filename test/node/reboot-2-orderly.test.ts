/** After an orderly reboot. */
import { declareAfterBoot } from "./reboot.ts";

declareAfterBoot();
