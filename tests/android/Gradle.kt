// What a module's build.gradle.kts calls, by the names and types of Gradle 8 and its Android plugin: for the Kotlin compiler
// alone, which so finds misspelt names and wrong types. Whether the plugin does what is asked is not known by this.
import java.io.File

fun file(path: String) = File(path)

class Plugins {
  fun id(name: String) = println(name)
}

fun plugins(block: Plugins.() -> Unit) = Plugins().block()

enum class JavaVersion { VERSION_11 }

class CompileOptions {
  lateinit var sourceCompatibility: JavaVersion
  lateinit var targetCompatibility: JavaVersion
}

class Cmake {
  val arguments = mutableListOf<String>()
  val targets = mutableSetOf<String>()
  var path: File? = null
  var version: String? = null
}

class ExternalNativeBuild {
  fun cmake(block: Cmake.() -> Unit) = Cmake().block()
}

class Ndk {
  val abiFilters = mutableSetOf<String>()
}

class DefaultConfig {
  var minSdk: Int? = null
  fun consumerProguardFiles(vararg files: Any) = println(files.size)
  fun ndk(block: Ndk.() -> Unit) = Ndk().block()
  fun externalNativeBuild(block: ExternalNativeBuild.() -> Unit) = ExternalNativeBuild().block()
}

class Android {
  var namespace: String? = null
  var compileSdk: Int? = null
  fun defaultConfig(block: DefaultConfig.() -> Unit) = DefaultConfig().block()
  fun externalNativeBuild(block: ExternalNativeBuild.() -> Unit) = ExternalNativeBuild().block()
  fun compileOptions(block: CompileOptions.() -> Unit) = CompileOptions().block()
}

fun android(block: Android.() -> Unit) = Android().block()

class Provider {
  val orNull: String? = null
}

class Providers {
  fun gradleProperty(name: String) = Provider().also { println(name) }
}

val providers = Providers()

class Dependencies {
  fun implementation(notation: Any) = println(notation)
  fun project(path: String) = path
}

fun dependencies(block: Dependencies.() -> Unit) = Dependencies().block()

fun include(vararg paths: String) = println(paths.size)
