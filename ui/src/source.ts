// Asks the server, as the administrator who logged in. The token lives in this tab only.

const tokenKey = "lyceum.status.token";
const userKey = "lyceum.status.user";

export class Refused extends Error {
  constructor(readonly status: number, message: string, readonly code = "") {
    super(message);
  }
}

export const session = {
  token: () => sessionStorage.getItem(tokenKey),
  user: () => sessionStorage.getItem(userKey) ?? "",
  keep(token: string, user: string) {
    sessionStorage.setItem(tokenKey, token);
    sessionStorage.setItem(userKey, user);
  },
  forget() {
    sessionStorage.removeItem(tokenKey);
    sessionStorage.removeItem(userKey);
  },
};

async function call<T>(method: string, path: string, body?: unknown, token?: string | null, ended?: AbortSignal): Promise<T> {
  const headers: Record<string, string> = {};
  if (token) headers["Authorization"] = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const late = AbortSignal.timeout(10_000);
  let response: Response;
  try {
    response = await fetch(path, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal: ended ? AbortSignal.any([late, ended]) : late,
      cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer",
    });
  } catch (error) {
    throw new Error((error as Error).name === "TimeoutError" ? "The server does not answer" : "The server can not be reached");
  }
  let answer: { error?: string; errcode?: string } & T;
  try {
    answer = await response.json();
  } catch {
    throw new Refused(response.status, `The answer (status ${response.status}) is no JSON: something between this browser and the server answers for it`);
  }
  if (!response.ok) throw new Refused(response.status, answer.error ?? `Status ${response.status}`, answer.errcode);
  return answer;
}

// asking ends when the user logs out, so that no question is left with a token that has ended.
let asking = new AbortController();

export function ask<T>(what: "status" | "plan" | "doctor"): Promise<T> {
  return call<T>("GET", `/_lyceum/admin/v1/${what}`, undefined, session.token(), asking.signal);
}

// logIn keeps a token when the user is an administrator. Others get an error that says so, and no device.
export async function logIn(user: string, password: string): Promise<void> {
  const login = await call<{ access_token: string; user_id: string }>("POST", "/_matrix/client/v3/login", {
    type: "m.login.password", identifier: { type: "m.id.user", user }, password, initial_device_display_name: "Status page",
  });
  try {
    await call("GET", "/_lyceum/admin/v1/status", undefined, login.access_token);
  } catch (error) {
    await call("POST", "/_matrix/client/v3/logout", {}, login.access_token).catch(() => undefined); // the token ends by itself some day
    if (error instanceof Refused && error.status === 403) {
      throw new Refused(403, `${login.user_id} is not an administrator of this server. Who runs the server makes one with: lyceum user promote NAME`);
    }
    throw error;
  }
  session.keep(login.access_token, login.user_id);
}

export async function logOut(): Promise<void> {
  const token = session.token();
  session.forget();
  asking.abort();
  asking = new AbortController();
  if (token) await call("POST", "/_matrix/client/v3/logout", {}, token).catch(() => undefined); // the tab has forgotten it
}
