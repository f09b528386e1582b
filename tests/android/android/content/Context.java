package android.content;

import android.content.res.AssetManager;
import java.io.File;

/** A fake of Android's, for a JVM on a computer: assets are files of a folder. */
public class Context {
  private final File assets;
  private final File files;

  public Context(File assets, File files) {
    this.assets = assets;
    this.files = files;
  }

  public AssetManager getAssets() {
    return new AssetManager(assets);
  }

  public File getNoBackupFilesDir() {
    return files;
  }
}
