package dev.edgecomp;

import android.content.Context;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;

/** Models as files that are what edgecomp has proven: LiteRT verifies none, and may die of a damaged one. */
final class ModelFiles {
  private static final String DIGEST = ".sha256";

  private ModelFiles() {}

  /** An asset as a file, copied at its first use, and again when an update of the app brings another one. */
  static File of(Context context, String asset) {
    try {
      String digest = text(context.getAssets().open(asset + DIGEST));
      File folder = new File(new File(context.getNoBackupFilesDir(), "edgecomp"), asset);
      File file = new File(folder, digest);
      if (file.exists()) return file;
      if (!folder.isDirectory() && !folder.mkdirs()) throw new IOException("cannot make " + folder);
      File partial = File.createTempFile("model", ".partial", folder); // two processes may come at once
      try {
        copy(context.getAssets().open(asset), new FileOutputStream(partial));
        require(partial, digest, asset);
        if (!partial.renameTo(file)) throw new IOException("cannot make " + file);
      } finally {
        partial.delete();
      }
      File[] others = folder.listFiles(other -> !other.equals(file)); // what is mapped stays until it is closed
      if (others != null) for (File other : others) other.delete();
      return file;
    } catch (IOException error) {
      throw new EdgecompException(asset + " cannot be read from the assets: " + error.getMessage(), error);
    }
  }

  /** A file, if it is the one whose digest stands beside it. */
  static File proven(File file) {
    try {
      require(file, text(new FileInputStream(file.getPath() + DIGEST)), file.getPath());
      return file;
    } catch (IOException error) {
      throw new EdgecompException(file + " cannot be read: " + error.getMessage(), error);
    }
  }

  private static void require(File file, String digest, String name) throws IOException {
    MessageDigest sha256;
    try {
      sha256 = MessageDigest.getInstance("SHA-256");
    } catch (NoSuchAlgorithmException error) {
      throw new AssertionError(error); // every Java has it
    }
    copy(new FileInputStream(file), new DigestStream(sha256));
    StringBuilder found = new StringBuilder();
    for (byte value : sha256.digest()) found.append(String.format("%02x", value));
    if (!found.toString().equals(digest)) throw new EdgecompException(name + " is damaged: its SHA-256 is " + found);
  }

  /** The digest: what stands before the first space. */
  private static String text(InputStream stream) throws IOException {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    copy(stream, bytes);
    return new String(bytes.toByteArray(), StandardCharsets.US_ASCII).trim().split("\\s")[0];
  }

  private static void copy(InputStream from, OutputStream to) throws IOException {
    try (InputStream in = from;
        OutputStream out = to) {
      byte[] buffer = new byte[1 << 16];
      for (int size = in.read(buffer); size >= 0; size = in.read(buffer)) out.write(buffer, 0, size);
    }
  }

  private static final class DigestStream extends OutputStream {
    private final MessageDigest digest;

    DigestStream(MessageDigest digest) {
      this.digest = digest;
    }

    @Override
    public void write(int value) {
      digest.update((byte) value);
    }

    @Override
    public void write(byte[] bytes, int offset, int size) {
      digest.update(bytes, offset, size);
    }
  }
}
