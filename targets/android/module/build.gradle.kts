plugins {
    id("com.android.library")
}

android {
    namespace = "{{ namespace }}"
    compileSdk = 35

    defaultConfig {
        minSdk = 24
        consumerProguardFiles("consumer-rules.pro")
        ndk {
            abiFilters += listOf("arm64-v8a", "x86_64") // phones, and the emulator
        }
{%- if runtime == "executorch" %}
        externalNativeBuild {
            cmake {
                // In gradle.properties of the app or the user: executorch.root=/path/to/executorch
                val root = providers.gradleProperty("executorch.root").orNull
                arguments += "-DEXECUTORCH_ROOT=" + (root ?: error("executorch.root is not set: see the module's README.md"))
                targets += "edgecomp"
            }
        }
{%- endif %}
    }

    externalNativeBuild {
        cmake {
            path = file("src/main/cpp/CMakeLists.txt")
            version = "3.22.1+"
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_11
        targetCompatibility = JavaVersion.VERSION_11
    }
}

dependencies {
    implementation("androidx.annotation:annotation:1.9.1")
{%- if runtime == "litert" %}
    implementation("com.google.ai.edge.litert:litert:{{ version }}") // its libLiteRt.so runs the model
{%- endif %}
}
