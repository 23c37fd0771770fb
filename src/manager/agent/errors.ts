/** What can go wrong with the guest agent. */

export class AgentError extends Error {
  override readonly name: string = 'AgentError';
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** Nobody is there to talk to, or the connection has ended. */
export class AgentConnectionError extends AgentError {
  override readonly name = 'AgentConnectionError';

  constructor(message: string, options?: ErrorOptions) {
    super('EAGENTCONNECTION', message, options);
  }
}

/** The agent has not answered in time. It may still do what it was asked to. */
export class AgentTimeoutError extends AgentError {
  override readonly name = 'AgentTimeoutError';
  /** what was waited for, e.g. `the answer to guest-ping` */
  readonly waitedFor: string;
  /** in milliseconds */
  readonly timeout: number;

  constructor(waitedFor: string, timeout: number, hint = '') {
    super(
      'EAGENTTIMEOUT',
      `the guest agent: no ${waitedFor} within ${seconds(timeout)}${hint && `; ${hint}`}`,
    );
    this.waitedFor = waitedFor;
    this.timeout = timeout;
  }
}

/** The agent has refused a command, or failed to carry it out. */
export class AgentCommandError extends AgentError {
  override readonly name = 'AgentCommandError';
  readonly command: string;
  /** the agent's class of error, e.g. `CommandNotFound` or `GenericError` */
  readonly errorClass: string;
  /** the agent's own words */
  readonly description: string;

  constructor(command: string, errorClass: string, description: string) {
    super('EAGENTCOMMAND', `the guest agent refuses ${command}: ${description}`);
    this.command = command;
    this.errorClass = errorClass;
    this.description = description;
  }
}

/** What came is not what the protocol has: a bug of the agent, or a guest that means harm. */
export class AgentProtocolError extends AgentError {
  override readonly name = 'AgentProtocolError';

  constructor(message: string, options?: ErrorOptions) {
    super('EAGENTPROTOCOL', message, options);
  }
}

export const seconds = (ms: number): string => `${Number((ms / 1000).toFixed(ms < 1000 ? 3 : 1))} s`;
