import * as sdk from "matrix-js-sdk-newest";
import * as api from "matrix-js-sdk-newest/lib/crypto-api/index.js";
import { against } from "./jssdk.mjs";

against("matrix-js-sdk 43", sdk, api);
