// Loaded before Azurite: it has every account that is asked for, all with one key, and ends with who started it.
const path = require("node:path");

const file = path.join(process.env.EMULATOR_MODULES, "azurite/dist/src/common/AccountDataStore.js");
const accounts = require(file).default;
const key1 = Buffer.from(process.env.EMULATOR_KEY, "base64");
accounts.prototype.getAccount = (name) => ({ name, key1 });

process.stdin.resume().on("end", () => process.exit(0));
