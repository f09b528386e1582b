package dev.edgecomp;

import androidx.annotation.NonNull;

/** A model cannot be loaded, or does not run; the message says why. */
public final class EdgecompException extends RuntimeException {
  private static final long serialVersionUID = 1;

  EdgecompException(@NonNull String message) {
    super(message);
  }

  EdgecompException(@NonNull String message, @NonNull Throwable cause) {
    super(message, cause);
  }
}
