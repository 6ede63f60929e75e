import * as sdk from "matrix-js-sdk";
import * as api from "matrix-js-sdk/lib/crypto-api/index.js";
import { against } from "./jssdk.mjs";

against("matrix-js-sdk 37", sdk, api);
